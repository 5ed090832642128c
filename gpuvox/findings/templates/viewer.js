"use strict";
// The orthogonal viewer. Volumes are lists, x fastest; axes point right, anterior, superior.
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const [nx, ny, nz] = data.shape;
  const strides = [1, nx, nx * ny];
  const PER_MM = 5; // pixels of the canvas
  const LETTERS = 16; // pixels of the page

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const numbers = (text, signed) => {
    const view = new DataView(bytes(text).buffer);
    const found = signed ? new Int16Array(view.byteLength / 2) : new Uint16Array(view.byteLength / 2);
    for (let i = 0; i < found.length; i++) found[i] = signed ? view.getInt16(2 * i, true) : view.getUint16(2 * i, true);
    return found;
  };
  const fromRuns = (text) => {
    const pairs = numbers(text, false), found = new Uint16Array(nx * ny * nz);
    for (let i = 0, at = 0; i < pairs.length; i += 2) { found.fill(pairs[i], at, at + pairs[i + 1]); at += pairs[i + 1]; }
    return found;
  };

  const underlay = bytes(data.underlay), mask = fromRuns(data.mask), labels = fromRuns(data.labels), colours = bytes(data.colours), cool = bytes(data.cool);
  const place = new Int32Array(nx * ny * nz).fill(-1); // of a voxel among those of the mask
  for (let i = 0, n = 0; i < mask.length; i++) if (mask[i]) place[i] = n++;
  const decoded = new Map();
  const maps = (test) => {
    if (!decoded.has(test)) decoded.set(test, { values: numbers(test.statistic, true), p: numbers(test.p, false) });
    return decoded.get(test);
  };

  const A = data.affine;
  const millimetres = (v) => [0, 1, 2].map((i) => A[i][0] * v[0] + A[i][1] * v[1] + A[i][2] * v[2] + A[i][3]);
  const nearest = (mm) => { // Cramer's rule
    const d = [0, 1, 2].map((i) => mm[i] - A[i][3]);
    const det = (c) => c[0][0] * (c[1][1] * c[2][2] - c[1][2] * c[2][1]) - c[0][1] * (c[1][0] * c[2][2] - c[1][2] * c[2][0])
      + c[0][2] * (c[1][0] * c[2][1] - c[1][1] * c[2][0]);
    const full = det(A);
    return [0, 1, 2].map((k) => {
      const v = det(A.slice(0, 3).map((row, i) => row.slice(0, 3).map((a, j) => (j === k ? d[i] : a)))) / full;
      return Math.min(Math.max(Math.round(v), 0), data.shape[k] - 1);
    });
  };
  const minus = (text) => text.replace("-", "\u2212");
  const rounded = (value) => minus(value.toFixed(1).replace(/\.0$/, "").replace(/^-0$/, "0"));
  const pText = (p) => (p < 0.001 ? "< .001" : "= " + p.toFixed(p.toFixed(3) === data.level.toFixed(3) && p !== data.level ? 4 : 3).replace(/^0/, ""));

  const byId = (id) => document.getElementById(id);
  const state = { test: data.tests[0], at: [0, 0, 0], p: data.level, least: 0, fade: true };

  // -- slices --------------------------------------------------------------------------------------------------

  const PLANES = [
    { name: "Sagittal", axis: 0, across: 1, up: 2, letters: ["P", "A"] },
    { name: "Coronal", axis: 1, across: 0, up: 2, letters: ["L", "R"] },
    { name: "Axial", axis: 2, across: 0, up: 1, letters: ["L", "R"] },
  ];

  function pixels(plane, image) {
    const { axis, across, up } = plane, { values, p } = maps(state.test);
    const w = data.shape[across], h = data.shape[up], out = image.data;
    for (let v = 0; v < h; v++) {
      for (let u = 0; u < w; u++) {
        const i = state.at[axis] * strides[axis] + u * strides[across] + v * strides[up];
        const o = 4 * ((h - 1 - v) * w + u);
        const grey = underlay[i] * 0.85;
        let alpha = 0, colour = 0, table = colours;
        if (place[i] >= 0) {
          const signed = values[place[i]] * state.test.scale, other = state.test.two_sided && signed < 0;
          const value = other ? -signed : signed;
          if (other) table = cool;
          const share = Math.min(Math.max(value / state.test.vmax, 0), 1);
          colour = 3 * Math.round(share * 255);
          if (value >= state.least) alpha = p[place[i]] / state.test.count < state.p ? 1 : state.fade ? data.faded * share : 0;
        }
        for (let c = 0; c < 3; c++) out[o + c] = (1 - alpha) * grey + alpha * table[colour + c];
        out[o + 3] = 255;
      }
    }
  }

  function outline(plane, context, sx, sy) {
    const { axis, across, up } = plane, { p } = maps(state.test);
    const w = data.shape[across], h = data.shape[up];
    const inside = (u, v) => {
      if (u < 0 || v < 0 || u >= w || v >= h) return false;
      const k = place[state.at[axis] * strides[axis] + u * strides[across] + v * strides[up]];
      return k >= 0 && p[k] / state.test.count < data.level;
    };
    context.beginPath();
    for (let v = 0; v <= h; v++) {
      for (let u = 0; u <= w; u++) {
        const here = inside(u, v), x = u * sx, y = (h - v) * sy;
        if (here !== inside(u - 1, v)) { context.moveTo(x, y); context.lineTo(x, y - sy); }
        if (here !== inside(u, v - 1)) { context.moveTo(x, y); context.lineTo(x + sx, y); }
      }
    }
    for (const [colour, width] of [["#000", 3], ["#fff", 1.4]]) {
      context.strokeStyle = colour; context.lineWidth = width; context.stroke();
    }
  }

  function crosshair(plane, context, sx, sy) {
    const { canvas } = context, x = (state.at[plane.across] + 0.5) * sx, y = canvas.height - (state.at[plane.up] + 0.5) * sy;
    const gap = 9;
    context.beginPath();
    for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
      context.moveTo(a, b); context.lineTo(c, d);
    }
    context.strokeStyle = "#7fd4ff"; context.lineWidth = 1.2; context.stroke();
  }

  function letters(plane, context) {
    if (!data.oriented) return;
    const scale = context.canvas.width / (context.canvas.clientWidth || context.canvas.width); // canvas to page
    context.font = `bold ${Math.round(LETTERS * scale)}px sans-serif`; context.textBaseline = "top";
    context.lineWidth = 3 * scale; context.strokeStyle = "#000"; context.fillStyle = "#fff";
    plane.letters.forEach((letter, i) => {
      context.textAlign = i ? "right" : "left";
      const x = i ? context.canvas.width - 6 * scale : 6 * scale;
      context.strokeText(letter, x, 5 * scale); context.fillText(letter, x, 5 * scale);
    });
  }

  function draw(plane) {
    const context = plane.canvas.getContext("2d");
    const w = data.shape[plane.across], h = data.shape[plane.up];
    const image = plane.buffer.getContext("2d").createImageData(w, h);
    pixels(plane, image);
    plane.buffer.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(plane.buffer, 0, 0, plane.canvas.width, plane.canvas.height);
    const sx = plane.canvas.width / w, sy = plane.canvas.height / h;
    outline(plane, context, sx, sy);
    crosshair(plane, context, sx, sy);
    letters(plane, context);
  }

  // -- what it says --------------------------------------------------------------------------------------------

  function readout() {
    const mm = millimetres(state.at), i = state.at[0] + nx * (state.at[1] + ny * state.at[2]), k = place[i];
    const parts = [`(${mm.map(rounded).join(", ")}) mm`];
    if (k >= 0) {
      const { values, p } = maps(state.test);
      parts.push(`${state.test.kind} = ${minus((values[k] * state.test.scale).toFixed(2))}`, `corrected p ${pText(p[k] / state.test.count)}`);
    } else parts.push("outside the mask");
    if (labels[i]) parts.push(data.names[labels[i]] ?? `label ${labels[i]}`);
    byId("v-readout").textContent = parts.join("  ·  ");
    PLANES.forEach((plane) => {
      const shown = `${"xyz"[plane.axis]} ${rounded(mm[plane.axis])} mm`;
      plane.slider.value = state.at[plane.axis];
      plane.slider.setAttribute("aria-valuetext", shown);
      plane.output.textContent = shown;
    });
  }

  function update() { PLANES.forEach(draw); readout(); }

  function move(at) {
    state.at = at.map((v, k) => Math.min(Math.max(v, 0), data.shape[k] - 1));
    update();
  }

  // -- controls ------------------------------------------------------------------------------------------------

  function pointed(plane, event) {
    const box = plane.canvas.getBoundingClientRect(), at = [...state.at];
    at[plane.across] = Math.floor(((event.clientX - box.left) / box.width) * data.shape[plane.across]);
    at[plane.up] = data.shape[plane.up] - 1 - Math.floor(((event.clientY - box.top) / box.height) * data.shape[plane.up]);
    move(at);
  }

  function pressed(plane, event) {
    const steps = {
      ArrowLeft: [plane.across, -1], ArrowRight: [plane.across, 1], ArrowDown: [plane.up, -1], ArrowUp: [plane.up, 1],
      PageUp: [plane.axis, 1], PageDown: [plane.axis, -1],
    }[event.key];
    if (!steps) return;
    event.preventDefault();
    const at = [...state.at];
    at[steps[0]] += steps[1];
    move(at);
  }

  function addPlane(plane) {
    const size = [plane.across, plane.up].map((a) => data.shape[a] * data.size[a]);
    const holder = document.createElement("div"), label = document.createElement("label"), name = document.createElement("span");
    holder.style.flex = `${size[0]} 1 0`;
    plane.canvas = document.createElement("canvas");
    plane.canvas.width = Math.round(size[0] * PER_MM);
    plane.canvas.height = Math.round(size[1] * PER_MM);
    plane.canvas.tabIndex = 0;
    plane.canvas.setAttribute("role", "application");
    plane.canvas.setAttribute("aria-label", `${plane.name} slice; arrow keys move the crosshair, Page Up and Page Down change the slice`);
    plane.canvas.setAttribute("aria-describedby", "v-readout");
    plane.buffer = document.createElement("canvas");
    plane.buffer.width = data.shape[plane.across];
    plane.buffer.height = data.shape[plane.up];
    plane.slider = document.createElement("input");
    plane.slider.type = "range"; plane.slider.min = 0; plane.slider.max = data.shape[plane.axis] - 1;
    plane.output = document.createElement("output");
    name.textContent = plane.name;
    label.append(name, plane.slider, plane.output);
    const save = document.createElement("button");
    save.type = "button"; save.className = "save"; save.textContent = "Save";
    save.setAttribute("aria-label", `Save the ${plane.name.toLowerCase()} slice`);
    save.addEventListener("click", () => window.saveFile(plane.canvas.toDataURL(), `${state.test.name}_${plane.name.toLowerCase()}`, "png"));
    label.append(save);
    holder.append(plane.canvas, label);
    byId("v-planes").append(holder);
    plane.canvas.addEventListener("pointerdown", (event) => { plane.canvas.setPointerCapture(event.pointerId); pointed(plane, event); });
    plane.canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) pointed(plane, event); });
    plane.canvas.addEventListener("keydown", (event) => pressed(plane, event));
    plane.slider.addEventListener("input", () => { const at = [...state.at]; at[plane.axis] = Number(plane.slider.value); move(at); });
  }

  function setLeast(value) {
    state.least = value;
    byId("v-t").value = value;
    byId("v-t-out").textContent = value.toFixed(1);
  }

  function setKind() { // t and F have scales of their own
    const { kind, vmax } = state.test;
    byId("v-kind").textContent = kind;
    byId("v-t").max = vmax;
    setLeast(0);
    byId("v-p").lastElementChild.textContent = `all ${kind}`;
    for (const bar of document.querySelectorAll("#ortho .bar")) bar.hidden = bar.dataset.kind !== kind;
  }

  function show(number, mm) {
    const before = state.kind;
    state.test = data.tests[number];
    state.kind = state.test.kind;
    if (state.kind !== before) setKind();
    byId("v-test").value = number;
    move(nearest(mm ?? state.test.peak));
  }

  function addChoices() {
    let group = null;
    data.tests.forEach((test, number) => {
      if (test.title && (!group || group.label !== test.title)) {
        group = document.createElement("optgroup");
        group.label = test.title;
        byId("v-test").append(group);
      }
      const name = test.title ? `${test.title}, ${test.contrast}` : test.contrast;
      (test.title ? group : byId("v-test")).append(new Option(`${name}${test.survivors ? "" : " (nothing survived)"}`, number));
    });
    const levels = [...new Set([data.level, 0.05, 0.01, 0.001])].sort((a, b) => b - a);
    for (const level of levels) byId("v-p").append(new Option(`corrected p < ${String(level).replace(/^0/, "")}`, level));
    byId("v-p").append(new Option("all", 2));
    byId("v-p").value = data.level;
  }

  window.addEventListener("resize", update);
  addChoices();
  byId("ortho").hidden = false;
  PLANES.forEach(addPlane);
  byId("v-test").addEventListener("change", (event) => show(Number(event.target.value)));
  byId("v-p").addEventListener("change", (event) => { state.p = Number(event.target.value); update(); });
  byId("v-t").addEventListener("input", (event) => { setLeast(Number(event.target.value)); update(); });
  byId("v-fade").addEventListener("change", (event) => { state.fade = event.target.checked; update(); });
  byId("v-peak").addEventListener("click", () => show(data.tests.indexOf(state.test)));
  for (const button of document.querySelectorAll("button.peak")) {
    button.addEventListener("click", () => {
      const mm = button.dataset.mm ? button.dataset.mm.split(" ").map(Number) : null;
      show(Number(button.dataset.test), mm);
      document.getElementById("viewer").scrollIntoView();
      PLANES[2].canvas.focus({ preventScroll: true });
    });
  }
  const first = data.tests.findIndex((test) => test.survivors);
  show(first < 0 ? 0 : first);
})();
