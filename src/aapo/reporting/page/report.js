// Behaviour that the page can do without: filters of its lists, and figures that answer to pointer and keys.
"use strict";

// A form.filters names the element whose .problem children its selects filter by their data attributes.
for (const form of document.querySelectorAll("form.filters")) {
  const items = [...document.getElementById(form.dataset.filters).querySelectorAll(".problem")];
  const apply = () => {
    const wanted = [...form.querySelectorAll("select")].filter((select) => select.value);
    for (const item of items) item.hidden = !wanted.every((select) => item.dataset[select.name] === select.value);
    const shown = items.filter((item) => !item.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${items.length} shown`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

const SVG = "http://www.w3.org/2000/svg";
const made = (parent, name, attributes) => {
  const element = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const written = (value) => String(Number(value.toPrecision(4)));
const clamped = (value, low, high) => Math.max(low, Math.min(value, high));

// About five round numbers in [low, high].
const ticks = (low, high) => {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
};

// One panel of a figure: a cursor that reads its lines, and a window on its horizontal axis.
class Panel {
  constructor(svg, spec, prefix) {
    Object.assign(this, spec);
    this.view = [...spec.x];
    this.group = document.getElementById(`${prefix}-${spec.id}`);
    this.layers = [];
    const [left, top, , height] = this.box;
    this.overlay = made(svg, "g", { class: "overlay" });
    this.cursor = made(this.overlay, "line", { y1: top, y2: top + height, x1: left, x2: left, visibility: "hidden" });
    this.band = made(this.overlay, "rect", { y: top, height, visibility: "hidden" });
    const positions = this.lines.flatMap((line) => line.points.map((point) => point[0]));
    this.positions = [...new Set(positions)].sort((a, b) => a - b);
  }
  holds(x, y) {
    const [left, top, width, height] = this.box;
    return x >= left && x <= left + width && y >= top && y <= top + height;
  }
  toData(x) { return this.view[0] + ((x - this.box[0]) / this.box[2]) * (this.view[1] - this.view[0]); }
  toPage(value) { return this.box[0] + ((value - this.view[0]) / (this.view[1] - this.view[0])) * this.box[2]; }
  within(x) { return clamped(x, this.box[0], this.box[0] + this.box[2]); }
  inView() { return this.positions.filter((value) => value >= this.view[0] && value <= this.view[1]); }
  nearest(value) {
    return this.inView().reduce((best, other) => (Math.abs(other - value) < Math.abs(best - value) ? other : best));
  }
  // The lines' values at a position, as text.
  read(position) {
    this.cursor.setAttribute("x1", this.toPage(position));
    this.cursor.setAttribute("x2", this.toPage(position));
    this.cursor.setAttribute("visibility", "visible");
    const values = this.lines
      .map((line) => [line.label, line.points.find((point) => point[0] === position)])
      .filter(([, point]) => point)
      .map(([label, point]) => (label ? `${label}: ` : "") + written(point[1]));
    return [`at ${written(position)}`, ...values].join("\n");
  }
  hide() { for (const mark of [this.cursor, this.band]) mark.setAttribute("visibility", "hidden"); }
  select(from, to) {
    this.band.setAttribute("x", Math.min(from, to));
    this.band.setAttribute("width", Math.abs(to - from));
    this.band.setAttribute("visibility", "visible");
  }
  // Whatever is clipped to the panel goes into a layer of its own, which can be stretched under the same clip.
  stretchable() {
    if (this.layers.length) return this.layers;
    for (const drawn of [...this.group.querySelectorAll("[clip-path]")]) {
      if (drawn.closest('[id*="tick_"]')) continue;
      const clip = document.createElementNS(SVG, "g");
      clip.setAttribute("clip-path", drawn.getAttribute("clip-path"));
      drawn.removeAttribute("clip-path");
      drawn.replaceWith(clip);
      const layer = clip.appendChild(document.createElementNS(SVG, "g"));
      layer.append(drawn);
      for (const shape of [drawn, ...drawn.querySelectorAll("*")]) shape.setAttribute("vector-effect", "non-scaling-stroke");
      this.layers.push(layer);
    }
    return this.layers;
  }
  zoom(low, high) {
    this.view = [low, high];
    const [left, top, width, height] = this.box;
    const factor = (this.x[1] - this.x[0]) / (high - low);
    const shift = ((low - this.x[0]) / (this.x[1] - this.x[0])) * width;
    for (const layer of this.stretchable())
      layer.setAttribute("transform", `translate(${left * (1 - factor) - shift * factor} 0) scale(${factor} 1)`);
    for (const old of this.overlay.querySelectorAll(".tick")) old.remove();
    const whole = low === this.x[0] && high === this.x[1];
    for (const tick of this.group.querySelectorAll('[id*="xtick_"]')) tick.style.display = whole ? "" : "none";
    if (whole) return;
    for (const value of ticks(low, high)) {
      const attributes = { class: "tick", x: this.toPage(value), y: top + height + 11, "text-anchor": "middle" };
      made(this.overlay, "text", attributes).textContent = written(value);
    }
  }
}

for (const plot of document.querySelectorAll(".plot[data-panels]")) {
  const svg = plot.querySelector("svg");
  const panels = JSON.parse(plot.dataset.panels).map((spec) => new Panel(svg, spec, plot.dataset.prefix));
  const tip = plot.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  let drag = null; // the panel, and where in it a drag began
  let keyed = null; // the panel and position that the arrow keys are at
  const place = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return { x: point.x, panel: panels.find((panel) => panel.holds(point.x, point.y)) };
  };
  const rest = () => {
    tip.hidden = true;
    for (const panel of panels) panel.hide();
  };
  const show = (panel, position) => {
    rest();
    tip.textContent = panel.read(position);
    tip.hidden = false;
    const at = new DOMPoint(panel.toPage(position), panel.box[1]).matrixTransform(svg.getScreenCTM());
    const frame = plot.getBoundingClientRect();
    tip.style.left = `${clamped(at.x - frame.left + 8, 0, Math.max(0, frame.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${at.y - frame.top}px`;
  };
  const whole = () => {
    rest();
    for (const panel of panels) panel.zoom(...panel.x);
  };
  plot.addEventListener("pointermove", (event) => {
    const { x, panel } = place(event);
    if (drag) drag.panel.select(drag.x, drag.panel.within(x));
    else if (panel && panel.inView().length) show(panel, panel.nearest(panel.toData(x)));
    else rest();
  });
  plot.addEventListener("pointerdown", (event) => {
    const { x, panel } = place(event);
    if (!panel || event.button !== 0) return;
    drag = { panel, x };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { panel, x } = drag;
    const end = panel.within(place(event).x);
    drag = null;
    rest();
    if (Math.abs(end - x) > 4) panel.zoom(panel.toData(Math.min(x, end)), panel.toData(Math.max(x, end)));
  });
  plot.addEventListener("pointerleave", () => drag || rest());
  plot.addEventListener("dblclick", whole);
  plot.addEventListener("blur", rest);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") whole();
    if (!step) return;
    const stops = panels.flatMap((panel) => panel.inView().map((position) => ({ panel, position })));
    const now = stops.findIndex((stop) => keyed && stop.panel === keyed.panel && stop.position === keyed.position);
    keyed = stops[now < 0 ? 0 : clamped(now + step, 0, stops.length - 1)];
    if (keyed) show(keyed.panel, keyed.position);
    event.preventDefault();
  });
}
