// The canvas of covidlib.viewer. Volumes are (x, y, z) in C order, RAS+: x grows to the right of the patient, y to the
// front, z to the head. Radiological display: each plane begins at the far end of both axes (R, A and S come first).
const PLANES = [
  { name: "axial", across: 0, down: 1, along: 2, edges: "RLAP" },
  { name: "coronal", across: 0, down: 2, along: 1, edges: "RLSI" },
  { name: "sagittal", across: 1, down: 2, along: 0, edges: "APSI" },
];
const STEPS = {
  ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity,
};
const WHEEL_STEP = 30; // pixels of a trackpad's scroll for one slice; a mouse wheel's notch is more and counts as one

async function gunzip(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function add(parent, tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

async function render({ model, el }) {
  const get = (name) => model.get(name);
  const put = (changes) => {
    for (const name in changes) model.set(name, changes[name]);
    model.save_changes();
  };

  el.classList.add("slice-canvas");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys for itself
  const frame = add(add(el, "div", "stage"), "div", "frame");
  const canvas = add(frame, "canvas", "");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "slider");
  const edges = [0, 1, 2, 3].map(() => add(frame, "span", "edge"));
  const where = add(el, "div", "line", "unpacking the volume");
  const readout = add(el, "div", "line");
  const legend = add(el, "div", "line");
  const tint = {}, names = {};
  for (const [label, name, color] of get("classes")) {
    tint[label] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    names[label] = name;
    add(add(legend, "span", "class"), "span", "key").style.background = color;
    legend.lastChild.append(name);
  }

  const shape = get("shape"), spacing = get("spacing_mm"), [low, high] = get("span");
  const stride = [shape[1] * shape[2], shape[2], 1];
  const last = [...get("start")]; // the slice each plane was left at
  let shown = get("plane"), image = [], labels = [], pointer = null;

  const slices = (plane) => shape[PLANES[plane].along];
  const current = () => clamp(get("index"), 0, slices(shown) - 1);
  const step = (n) => put({ index: clamp(current() + n, 0, slices(shown) - 1) });
  const intensity = (grey) => low + (grey / 255) * (high - low);
  const round = (value) => value.toFixed(high - low < 100 ? 2 : 0);

  function draw() {
    if (!image.length) return;
    const { name, across, down, along, edges: letters } = PLANES[shown];
    const w = shape[across], h = shape[down], k = current(), opacity = get("opacity"), [from, to] = get("window");
    const gain = 255 / Math.max(to - from, 1e-9);
    const shade = Uint8ClampedArray.from({ length: 256 }, (_, grey) => (intensity(grey) - from) * gain);
    const picture = new ImageData(w, h), rgba = picture.data;
    for (let j = 0, o = 0; j < h; j++) {
      let at = k * stride[along] + (h - 1 - j) * stride[down] + (w - 1) * stride[across];
      for (let i = 0; i < w; i++, at -= stride[across], o += 4) {
        const grey = shade[image[at]], color = tint[labels[at]];
        for (let c = 0; c < 3; c++) rgba[o + c] = color ? grey + opacity * (color[c] - grey) : grey;
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
    where.textContent = `${name} slice ${k + 1} of ${slices(shown)} · window ${round(from)} to ${round(to)} ${get("unit")}`;
    canvas.setAttribute("aria-label", `${name} CT slice; arrow keys change it`);
    canvas.setAttribute("aria-valuenow", k + 1);
    canvas.setAttribute("aria-valuemin", 1);
    canvas.setAttribute("aria-valuemax", slices(shown));
    read();
  }

  function read() {
    if (!pointer) { readout.textContent = "wheel or arrow keys: next slice; pointer: values"; return; }
    const { across, down, along } = PLANES[shown], voxel = [0, 0, 0];
    voxel[across] = shape[across] - 1 - clamp(Math.floor(pointer[0] * shape[across]), 0, shape[across] - 1);
    voxel[down] = shape[down] - 1 - clamp(Math.floor(pointer[1] * shape[down]), 0, shape[down] - 1);
    voxel[along] = current();
    const at = voxel.reduce((sum, v, axis) => sum + v * stride[axis], 0), grey = image[at];
    const beyond = get("unit") && grey === 0 ? "≤ " : get("unit") && grey === 255 ? "≥ " : ""; // HU are cut to the span
    const mm = voxel.map((v, axis) => `${"xyz"[axis]} ${(v * spacing[axis]).toFixed(1)}`).join("  ");
    readout.textContent = `${beyond}${round(intensity(grey))} ${get("unit")} · ${names[labels[at]] ?? "background"} · ${mm} mm`;
  }

  function changePlane() {
    last[shown] = current();
    shown = get("plane");
    const index = last[shown], max_index = Math.max(1, slices(shown) - 1);
    // the slider's value must never lie beyond its maximum, not even between the two
    put(max_index < get("index") ? { index, max_index } : { max_index, index });
    draw();
  }

  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    step(STEPS[event.key]);
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

  for (const name of ["index", "opacity", "window"]) model.on(`change:${name}`, draw);
  model.on("change:plane", changePlane);
  model.on("change:preset", () => { if (get("preset") !== null) put({ window: [...get("presets")[get("preset")]] }); });
  model.on("change:window", () => {
    const preset = get("presets")[get("preset")], [from, to] = get("window");
    if (preset && (preset[0] !== from || preset[1] !== to)) put({ preset: null });
  });
  model.on("change:jump", () => {
    if (!get("jump")) return;
    put({ index: get("start")[shown] });
    queueMicrotask(() => put({ jump: false })); // not at once: a link does not carry back what it is just carrying over
  });
  [image, labels] = await Promise.all([gunzip(get("volume")), gunzip(get("labels"))]);
  draw();
}

export default { render };
