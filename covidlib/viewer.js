// The canvas of covidlib.viewer. Volumes are (x, y, z) in C order, RAS+: x grows to the right of the patient, y to the
// front, z to the head. Radiological display: each plane begins at the far end of both axes (R, A and S come first).
const PLANES = [
  { name: "axial", across: 0, down: 1, along: 2, edges: "RLAP" },
  { name: "coronal", across: 0, down: 2, along: 1, edges: "RLSI" },
  { name: "sagittal", across: 1, down: 2, along: 0, edges: "APSI" },
];
const TRUTH = 0, PREDICTION = 1, BOTH = 2, DISAGREEMENT = 3; // as SHOWN in viewer.py
const INFECTION = 3;
const STEPS = {
  ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity,
};
const WHEEL_STEP = 30; // pixels of a trackpad's scroll for one slice; a mouse wheel's notch is more and counts as one
const PLAY_MS = 150; // a slice
const BAR_PADDING = 8; // pixels from the bar's ends to where the slider's handle stands at its ends

async function unpack(view) {
  if (!view.byteLength) return null;
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("gzip"));
  const values = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let at = 1; at < values.length; at++) values[at] += values[at - 1]; // differences, modulo 256
  return values;
}

function add(parent, tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

// ipywidgets shows names and states, but does not tell them to screen readers; and its slider counts slices from 0.
function nameControls(box, slice) {
  for (const button of box?.querySelectorAll(".jupyter-button") ?? []) {
    button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
  }
  for (const label of box?.querySelectorAll(".widget-label") ?? []) {
    label.removeAttribute("title");
    const handles = label.parentElement.querySelectorAll(".noUi-handle");
    handles.forEach((handle, i) => {
      handle.setAttribute("aria-label", label.textContent + (handles.length > 1 ? [", low end", ", high end"][i] : ""));
    });
    if (handles.length) continue;
    label.parentElement.setAttribute("role", "group");
    label.parentElement.setAttribute("aria-label", label.textContent);
  }
  box?.querySelector('.noUi-handle[aria-label="Slice"]')?.setAttribute("aria-valuetext", slice);
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
const difference = (truth, predicted) =>
  truth === predicted ? 0 : truth === INFECTION ? 1 : predicted === INFECTION ? 2 : 3; // an index into errors, plus 1

async function render({ model, el }) {
  const get = (name) => model.get(name);
  const put = (changes) => {
    for (const name in changes) model.set(name, changes[name]);
    model.save_changes();
  };

  el.classList.add("slice-canvas");
  const frame = add(add(el, "div", "stage"), "div", "frame");
  const canvas = add(frame, "canvas", "");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "slider");
  const edges = [0, 1, 2, 3].map(() => add(frame, "span", "edge"));
  const where = add(el, "div", "line", "unpacking the volume");
  const readout = add(el, "div", "line");
  const legend = add(el, "div", "line");
  const bar = add(el, "canvas", "bar");
  bar.setAttribute("aria-hidden", "true"); // said by the canvas's value text
  const tint = [], names = {}, errors = get("errors").map(([, color]) => rgb(color));
  for (const [label, name, color] of get("classes")) {
    tint[label] = rgb(color);
    names[label] = name;
  }

  const shape = get("shape"), spacing = get("spacing_mm"), [low, high] = get("span"), marked = get("classes").length > 0;
  const stride = [shape[1] * shape[2], shape[2], 1];
  const last = [...get("start")]; // the slice each plane was left at
  let plane = get("plane"), image = [], labels = null, prediction = null, infected = null, pointer = null;

  const slices = (number) => shape[PLANES[number].along];
  const current = () => clamp(get("index"), 0, slices(plane) - 1);
  const place = () => `slice ${current() + 1} of ${slices(plane)}`;
  const step = (n) => put({ index: clamp(current() + n, 0, slices(plane) - 1) });
  const intensity = (grey) => low + (grey / 255) * (high - low);
  const round = (value) => value.toFixed(high - low < 100 ? 2 : 0);

  // Infected voxels of each slice, along each axis: truth, prediction, and what is in one of them only.
  function countInfected() {
    const counts = shape.map((n) => [0, 1, 2, 3].map(() => new Float64Array(n)));
    for (let at = 0; at < labels.length; at++) {
      const truth = labels[at] === INFECTION, predicted = prediction?.[at] === INFECTION;
      if (!truth && !predicted) continue;
      stride.forEach((size, axis) => {
        const k = Math.floor(at / size) % shape[axis], [t, p, missed, invented] = counts[axis];
        if (truth) t[k]++;
        if (predicted) p[k]++;
        if (truth !== predicted) (truth ? missed : invented)[k]++;
      });
    }
    return counts;
  }

  // A function from a voxel to what covers its grey: red, green, blue and how much of it; undefined where nothing does.
  function painter(across, down) {
    const covering = (share) => (color) => color && [...color, Math.min(1, share * get("opacity"))];
    const soft = tint.map(covering(1)), outline = tint.map(covering(3));
    const wrong = errors.map((color, kind) => covering(kind < 2 ? 2 : 1)(color)); // infection stronger than the rest
    const shown = get("shown"), ways = [stride[across], -stride[across], stride[down], -stride[down]];
    if (!prediction || shown === TRUTH) return (at) => soft[labels[at]];
    if (shown === PREDICTION) return (at) => soft[prediction[at]];
    if (shown === DISAGREEMENT) return (at) => wrong[difference(labels[at], prediction[at]) - 1];
    const edge = (at) => prediction[at] && ways.some((way) => prediction[at + way] !== prediction[at]);
    return (at) => (edge(at) ? outline[prediction[at]] : soft[labels[at]]);
  }

  function draw() {
    if (!infected) return;
    const { name, across, down, along, edges: letters } = PLANES[plane];
    const w = shape[across], h = shape[down], k = current(), [from, to] = get("window");
    const gain = 255 / Math.max(to - from, 1e-9), paint = painter(across, down);
    const shade = Uint8ClampedArray.from({ length: 256 }, (_, grey) => (intensity(grey) - from) * gain);
    const picture = new ImageData(w, h), rgba = picture.data;
    for (let j = 0, o = 0; j < h; j++) {
      let at = k * stride[along] + (h - 1 - j) * stride[down] + (w - 1) * stride[across];
      for (let i = 0; i < w; i++, at -= stride[across], o += 4) {
        const grey = shade[image[at]], cover = paint(at);
        for (let c = 0; c < 3; c++) rgba[o + c] = cover ? grey + cover[3] * (cover[c] - grey) : grey;
        rgba[o + 3] = 255;
      }
    }
    canvas.width = w;
    canvas.height = h;
    canvas.getContext("2d").putImageData(picture, 0, 0);
    const wide = w * spacing[across], tall = h * spacing[down], longest = Math.max(wide, tall);
    frame.style.width = `${(100 * wide) / longest}%`;
    frame.style.height = `${(100 * tall) / longest}%`;
    edges.forEach((edge, i) => { edge.textContent = letters[i]; });
    where.textContent = `${name} ${place()} · window ${round(from)} to ${round(to)} ${get("unit")}`;
    tell(name, along, k);
    drawBar(along, k);
    explain();
    read();
    sayControls();
  }

  const sayControls = () => requestAnimationFrame(() => { // when the buttons have changed, too
    nameControls(el.closest(".covidlib-viewer"), place());
  });

  function tell(name, along, k) {
    const [truth, predicted] = infected[along].map((counts) => counts[k]);
    const counted = marked ? `, ${truth} infected voxels${prediction ? `, ${predicted} predicted` : ""}` : "";
    canvas.setAttribute("aria-label", `${name} CT slice; arrow keys change it`);
    canvas.setAttribute("aria-valuenow", k + 1);
    canvas.setAttribute("aria-valuemin", 1);
    canvas.setAttribute("aria-valuemax", slices(plane));
    canvas.setAttribute("aria-valuetext", `${place()}${counted}`);
  }

  // Above the slider: infected voxels of each slice, and a mark at the current one.
  function drawBar(along, k) {
    const [truth, predicted, missed, invented] = infected[along], shown = prediction ? get("shown") : TRUTH;
    const highest = Math.max(...truth, ...predicted), red = get("classes").find(([label]) => label === INFECTION)?.[2];
    bar.hidden = !highest;
    if (!highest) return;
    const ratio = window.devicePixelRatio || 1, width = bar.clientWidth, height = bar.clientHeight;
    bar.width = width * ratio;
    bar.height = height * ratio;
    const pen = bar.getContext("2d"), apart = (width - 2 * BAR_PADDING) / Math.max(1, truth.length - 1);
    const column = (slice, from, to, color) => { // from, to: voxels
      const [bottom, top] = [from, to].map((count) => (height - 1) * (1 - count / highest));
      pen.fillStyle = color;
      pen.fillRect(BAR_PADDING + (slice - 0.5) * apart, Math.min(top, bottom - 1), Math.max(1, apart), Math.max(1, bottom - top));
    };
    pen.scale(ratio, ratio);
    const ink = "#fff"; // on the bar's black
    const filled = shown === PREDICTION ? predicted : truth;
    for (let slice = 0; slice < truth.length; slice++) {
      if (shown === DISAGREEMENT) {
        if (missed[slice]) column(slice, 0, missed[slice], get("errors")[0][1]);
        if (invented[slice]) column(slice, missed[slice], missed[slice] + invented[slice], get("errors")[1][1]);
      } else if (filled[slice]) column(slice, 0, filled[slice], red);
      if (shown === BOTH && predicted[slice]) column(slice, predicted[slice], predicted[slice], ink);
    }
    pen.fillStyle = ink;
    pen.fillRect(BAR_PADDING, height - 1, width - 2 * BAR_PADDING, 1);
    pen.fillRect(BAR_PADDING + k * apart - 1, 0, 2, height);
  }

  function explain() {
    const shown = prediction ? get("shown") : TRUTH;
    const entries = shown === DISAGREEMENT ? get("errors") : get("classes").map(([, ...entry]) => entry);
    legend.replaceChildren();
    for (const [name, color] of entries) {
      add(add(legend, "span", "class"), "span", "key").style.background = color;
      legend.lastChild.append(name);
    }
    if (shown === BOTH) add(legend, "span", "class", "filled: truth, outlined: prediction");
  }

  function read() {
    if (!pointer) { readout.textContent = "wheel or arrow keys: next slice; pointer: values"; return; }
    const { across, down, along } = PLANES[plane], voxel = [0, 0, 0];
    voxel[across] = shape[across] - 1 - clamp(Math.floor(pointer[0] * shape[across]), 0, shape[across] - 1);
    voxel[down] = shape[down] - 1 - clamp(Math.floor(pointer[1] * shape[down]), 0, shape[down] - 1);
    voxel[along] = current();
    const at = voxel.reduce((sum, v, axis) => sum + v * stride[axis], 0), grey = image[at];
    const [below, above] = get("cut"), beyond = grey === 0 && below ? "≤ " : grey === 255 && above ? "≥ " : "";
    const called = (label) => names[label] ?? "background";
    const what = prediction ? `${called(labels[at])}, predicted ${called(prediction[at])}` : called(labels[at]);
    const mm = voxel.map((v, axis) => `${"xyz"[axis]} ${(v * spacing[axis]).toFixed(1)}`).join("  ");
    readout.textContent = [`${beyond}${round(intensity(grey))} ${get("unit")}`, ...(marked ? [what] : []), `${mm} mm`].join(" · ");
  }

  function changePlane() {
    last[plane] = current();
    plane = get("plane");
    const index = last[plane], max_index = Math.max(1, slices(plane) - 1);
    // the slider's value must never lie beyond its maximum, not even between the two
    put(max_index < get("index") ? { index, max_index } : { max_index, index });
    draw();
  }

  const onKey = (event) => { // on the window, before JupyterLab or Notebook 7 take the arrow keys for themselves
    if (event.target !== canvas || !(event.key in STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    step(STEPS[event.key]);
  };
  window.addEventListener("keydown", onKey, true);
  bar.addEventListener("pointerdown", (event) => {
    const along = (event.offsetX - BAR_PADDING) / (bar.clientWidth - 2 * BAR_PADDING);
    put({ index: clamp(Math.round(along * (slices(plane) - 1)), 0, slices(plane) - 1) });
  });
  // A page scrolling past under a resting pointer keeps scrolling: the wheel is ours once the pointer has moved here.
  let armed = false, scrolled = 0;
  canvas.addEventListener("pointermove", (event) => {
    armed = true;
    pointer = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight];
    read();
  });
  canvas.addEventListener("pointerleave", () => { armed = false; pointer = null; read(); });
  canvas.addEventListener("wheel", (event) => {
    if (!armed || event.ctrlKey) return;
    event.preventDefault();
    scrolled += clamp(event.deltaY * (event.deltaMode ? 20 : 1), -WHEEL_STEP, WHEEL_STEP);
    if (Math.abs(scrolled) < WHEEL_STEP) return;
    step(Math.sign(scrolled));
    scrolled = 0;
  }, { passive: false });

  for (const name of ["index", "opacity", "window", "shown"]) model.on(`change:${name}`, draw);
  model.on("change:plane", changePlane);
  model.on("change:preset", () => { if (get("preset") !== null) put({ window: [...get("presets")[get("preset")]] }); });
  model.on("change:window", () => {
    const preset = get("presets")[get("preset")], [from, to] = get("window");
    if (preset && (preset[0] !== from || preset[1] !== to)) put({ preset: null });
  });
  model.on("change:jump", () => {
    if (!get("jump")) return;
    put({ index: get("start")[plane] });
    queueMicrotask(() => put({ jump: false })); // not at once: a link does not carry back what it is just carrying over
  });
  let timer = null;
  const play = () => {
    clearInterval(timer);
    sayControls();
    if (get("playing")) timer = setInterval(() => put({ index: (current() + 1) % slices(plane) }), PLAY_MS);
  };
  model.on("change:playing", play);
  [image, labels, prediction] = await Promise.all(["volume", "labels", "prediction"].map((name) => unpack(get(name))));
  infected = countInfected();
  draw();
  play();
  new ResizeObserver(draw).observe(bar); // the first size comes late, when the page's layout is there
  return () => {
    clearInterval(timer);
    window.removeEventListener("keydown", onKey, true);
  };
}

export default { render };
