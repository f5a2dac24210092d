// Two views of one picture in the same place, and the line between them.

/** @typedef {import("./codec.js").Picture} Picture */

const AMPLIFIED = 8;

/** The stage's canvases. */
export class Compare {
  /**
   * @param {HTMLElement} views holds the canvases, labels and the grip
   * @param {HTMLElement} stage what they have to fit into
   */
  constructor(views, stage) {
    /** @type {(id: string) => any} */
    const inside = (id) => views.querySelector(`#${id}`);
    this.views = views;
    this.stage = stage;
    /** @type {HTMLCanvasElement} */
    this.human = inside("human");
    /** @type {HTMLCanvasElement} */
    this.machine = inside("machine");
    /** @type {HTMLCanvasElement} */
    this.difference = inside("difference");
    /** @type {HTMLElement} */
    this.grip = inside("grip");
    /** @type {HTMLElement} */
    this.rightName = inside("right-name");
    this.beta = 1; // of the right view
    this.at = 50; // percent, where the line stands
    views.addEventListener("pointerdown", (event) => {
      views.setPointerCapture(event.pointerId);
      this.follow(event);
      this.grip.focus({ preventScroll: true });
      event.preventDefault();
    });
    views.addEventListener("pointermove", (event) => views.hasPointerCapture(event.pointerId) && this.follow(event));
    this.grip.addEventListener("keydown", (event) => {
      const steps = /** @type {Record<string, number>} */ ({ ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 });
      if (!(event.key in steps)) return;
      this.move(this.at + steps[event.key]);
      event.preventDefault();
    });
    addEventListener("resize", () => this.fit());
  }

  /**
   * @param {Picture} left
   * @param {Picture | null} right null for a codec with one view
   * @param {number} beta of the right one
   */
  show(left, right, beta) {
    this.views.hidden = false;
    this.views.classList.toggle("single", !right);
    draw(this.human, left);
    if (right) this.right(right, beta);
    this.fit();
  }

  /**
   * @param {Picture} picture
   * @param {number} beta
   */
  right(picture, beta) {
    draw(this.machine, picture);
    this.beta = beta;
    this.rightName.textContent = beta === 1 ? "for machines" : `β ${beta.toFixed(2)}`;
    if (!this.difference.hidden) this.drawDifference();
  }

  /** As large as the window lets it be, up to twice its pixels. */
  fit() {
    const { width, height } = this.human;
    const room = { width: this.stage.clientWidth, height: Math.max(320, innerHeight * 0.6) };
    const scale = Math.min(room.width / width, room.height / height, Math.max(2, 320 / Math.max(width, height)));
    this.views.style.width = `${Math.round(width * scale)}px`;
    this.views.style.height = `${Math.round(height * scale)}px`;
    this.views.style.imageRendering = scale > 3 ? "pixelated" : "auto";
  }

  /** @param {PointerEvent} event */
  follow(event) {
    const box = this.views.getBoundingClientRect();
    this.move((100 * (event.clientX - box.left)) / box.width);
  }

  /** @param {number} at percent */
  move(at) {
    this.at = Math.min(100, Math.max(0, at));
    this.views.style.setProperty("--at", `${this.at}%`);
    this.grip.setAttribute("aria-valuenow", String(Math.round(this.at)));
  }

  /** @returns {boolean} whether the difference is shown now */
  toggleDifference() {
    this.difference.hidden = !this.difference.hidden;
    if (!this.difference.hidden) this.drawDifference();
    return !this.difference.hidden;
  }

  /** What the two views do not share, amplified, on black. */
  drawDifference() {
    const { width, height } = this.human;
    const [a, b] = [this.human, this.machine].map((canvas) => context(canvas).getImageData(0, 0, width, height).data);
    const data = new Uint8ClampedArray(a.length);
    for (let i = 0; i < a.length; i++) data[i] = i % 4 === 3 ? 255 : AMPLIFIED * Math.abs(a[i] - b[i]);
    draw(this.difference, { width, height, data });
  }

  /**
   * Both views as files.
   * @param {string} name of the .ugic file
   */
  save(name) {
    const stem = name.replace(/\.ugic$/i, "");
    /** @type {[HTMLCanvasElement, string][]} */
    const views = this.views.classList.contains("single")
      ? [[this.human, ""]]
      : [[this.human, ".human"], [this.machine, this.beta === 1 ? ".machine" : `.beta${this.beta}`]];
    for (const [canvas, view] of views) {
      canvas.toBlob((blob) => {
        if (!blob) return;
        const link = Object.assign(document.createElement("a"), {
          href: URL.createObjectURL(blob),
          download: `${stem}${view}.png`,
        });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      }, "image/png");
    }
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, data: Uint8ClampedArray}} picture
 */
function draw(canvas, { width, height, data }) {
  Object.assign(canvas, { width, height });
  context(canvas).putImageData(new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (data), width, height), 0, 0);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {CanvasRenderingContext2D}
 */
function context(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
}
