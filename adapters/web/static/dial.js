// The preference: half a circle from people (0) to machines (1). A range input carries it for keyboards and screen readers.

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 84;
const [WIDTH, TOP] = [232, 98]; // of the drawing, whose origin is the circle's centre

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @returns {SVGElement}
 */
function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

/**
 * @param {number} beta
 * @param {number} radius
 * @returns {{x: number, y: number}} where it stands on the half circle
 */
function place(beta, radius) {
  const angle = Math.PI * (1 - beta);
  return { x: radius * Math.cos(angle), y: -radius * Math.sin(angle) };
}

/** A dial in an element of the page. */
export class Dial {
  /**
   * @param {HTMLElement} holder
   * @param {(beta: number) => void} changed is told every new value
   */
  constructor(holder, changed) {
    this.changed = changed;
    this.input = Object.assign(document.createElement("input"), { type: "range", min: "0", max: "1", step: "0.01", value: "1" });
    this.input.setAttribute("aria-label", "Preference, from people (0) to machines (1)");
    this.input.addEventListener("input", () => this.set(Number(this.input.value)));

    const svg = element("svg", { viewBox: `${-WIDTH / 2} ${-TOP} ${WIDTH} 132`, "aria-hidden": "true" });
    const gradient = element("linearGradient", { id: "preference" });
    gradient.append(
      element("stop", { offset: 0, class: "from" }), element("stop", { offset: 0.5, class: "middle" }),
      element("stop", { offset: 1, class: "to" }),
    );
    const defs = element("defs", {});
    defs.append(gradient);
    svg.append(defs);
    for (let i = 0; i <= 20; i++) {
      const [a, b] = [place(i / 20, RADIUS - 13), place(i / 20, RADIUS - (i % 5 ? 17 : 22))];
      svg.append(element("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: "tick" }));
    }
    const [left, right] = [place(0, RADIUS), place(1, RADIUS)];
    const arc = `M${left.x} ${left.y}A${RADIUS} ${RADIUS} 0 0 1 ${right.x} ${right.y}`;
    this.knob = element("circle", { r: 11, class: "knob" });
    this.value = element("text", { x: 0, y: -14, class: "value" });
    this.words = element("text", { x: 0, y: 6, class: "words" });
    svg.append(element("path", { d: arc, class: "arc" }), this.knob, this.value, this.words);
    for (const [x, words] of /** @type {[number, string][]} */ ([[left.x, "people"], [right.x, "machines"]])) {
      svg.append(Object.assign(element("text", { x, y: 27, class: "end" }), { textContent: words }));
    }
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      this.turn(svg, event);
      this.input.focus({ preventScroll: true });
      event.preventDefault();
    });
    svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && this.turn(svg, event));
    holder.replaceChildren(this.input, svg);
    this.show(1);
  }

  /** @returns {number} */
  get beta() {
    return Number(this.input.value);
  }

  /** @param {number} beta */
  show(beta) {
    this.input.value = String(beta);
    const at = place(this.beta, RADIUS);
    this.knob.setAttribute("cx", String(at.x));
    this.knob.setAttribute("cy", String(at.y));
    this.value.textContent = `β ${this.beta.toFixed(2)}`;
    const ends = /** @type {Record<number, string>} */ ({ 0: "the human view", 1: "the machine view" });
    this.words.textContent = ends[this.beta] ?? "in between";
  }

  /** @param {number} beta */
  set(beta) {
    this.show(beta);
    this.changed(this.beta);
  }

  /**
   * @param {Element} svg
   * @param {PointerEvent} event
   */
  turn(svg, event) {
    const box = svg.getBoundingClientRect();
    const scale = WIDTH / box.width;
    const x = (event.clientX - box.left) * scale - WIDTH / 2;
    const y = TOP - (event.clientY - box.top) * scale;
    const beta = y < 0 ? Number(x > 0) : 1 - Math.atan2(y, x) / Math.PI;
    this.set(Math.round(beta * 100) / 100);
  }
}
