"use strict";
// The lesson: its figures, which one moves by hand, and the steps from screen to screen.

const [HEIGHT, WIDTH, CHANNELS = 1] = NETWORK.shape;
const NARROW = innerWidth < 600; // a phone: fewer and larger things
const IMAGES = NETWORK.labels.map((label, i) => {
  const size = HEIGHT * WIDTH * CHANNELS;
  return { label, pixels: bytes("images").subarray(i * size, (i + 1) * size) };
});

/** Replace what is in the element with this id, if there is one: a screen may be absent. */
function put(id, ...elements) {
  find(id)?.replaceChildren(...elements);
}

// ---- The picture that one picks, on all screens that show one

let picked = Math.max(0, NETWORK.labels.indexOf(NETWORK.label));

function pick(index) {
  picked = index;
  document.querySelectorAll(".picker").forEach((row) => {
    [...row.children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
  });
  showNumbers();
  showLabel();
  if (find("draw-field")) see(Float32Array.from(IMAGES[index].pixels), true);
}

for (const row of document.querySelectorAll(".picker")) {
  row.append(...IMAGES.map(({ label, pixels }, index) => {
    const canvas = make("canvas", "ink"), button = make("button", "", canvas);
    paintImage(canvas, pixels, NETWORK.shape);
    button.type = "button";
    button.setAttribute("aria-label", NETWORK.classes[label]);
    button.addEventListener("click", () => pick(index));
    return button;
  }));
}

// ---- A picture as numbers

const SIDE = Math.min(CHANNELS > 1 ? 6 : NARROW ? 8 : 12, HEIGHT, WIDTH);
let corner = [Math.floor((HEIGHT - SIDE) / 2), Math.floor((WIDTH - SIDE) / 2)];

const pixel = (row, column) => [...IMAGES[picked].pixels.subarray((row * WIDTH + column) * CHANNELS, (row * WIDTH + column + 1) * CHANNELS)];

/** A cell of the picture, with its numbers or without. */
function pixelCell(row, column, isWritten) {
  const values = pixel(row, column);
  if (CHANNELS === 1) return { ...greyCell(values[0], 255, isWritten ? String(values[0]) : null), size: 23 };
  const isDark = values.reduce(add) < 380;
  return { kind: "colour", fill: `rgb(${values.join(" ")})`, texts: isWritten ? values.map(String) : [], style: isDark ? "white" : "black", size: 18 };
}

function showNumbers() {
  const all = grid(HEIGHT, WIDTH, (row, column) => pixelCell(row, column, false), "picture");
  all.querySelectorAll("rect").forEach((cell) => cell.style.setProperty("stroke-width", 0));
  all.append(frame(...corner, SIDE, SIDE, 18));
  all.classList.add("hand");
  put("whole", all);
  showPart();
  const zeros = IMAGES[picked].pixels.filter((value) => value === 0).length;
  put("zeros", ...both(`${whole(zeros)} of ${whole(HEIGHT * WIDTH)}.`, `${whole(HEIGHT * WIDTH)}개 중 ${whole(zeros)}개.`));
}

function moveFrame(row, column) {
  corner = [clamp(row, 0, HEIGHT - SIDE), clamp(column, 0, WIDTH - SIDE)];
  const outline = find("whole").querySelector(".frame");
  outline.setAttribute("x", 60 * corner[1]);
  outline.setAttribute("y", 60 * corner[0]);
  showPart();
}

function showPart() {
  put("part", grid(SIDE, SIDE, (row, column) => pixelCell(corner[0] + row, corner[1] + column, true), "numbers"));
}

/** The row and the column of an event in the grid of an element, 0.5 in the middle of the first cell. */
function positionIn(element, event) {
  const image = element.querySelector("svg"), point = new DOMPoint(event.clientX, event.clientY).matrixTransform(image.getScreenCTM().inverse());
  return [point.y / 60, point.x / 60];
}

function onDrag(element, follow) {
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    follow(event);
  });
  element.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
}

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Let the arrow keys move what is in an element, while it has the focus. */
function onArrows(element, label, move) {
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", `${label}; the arrow keys move the frame`);
  element.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    event.stopPropagation();
    move(...ARROWS[event.key]);
  });
}

// On the element around the picture, which stays while the picture is drawn anew.
onDrag(find("whole"), (event) => {
  const [row, column] = positionIn(find("whole"), event);
  moveFrame(Math.round(row - SIDE / 2), Math.round(column - SIDE / 2));
});
onArrows(find("whole"), "picture", (down, right) => moveFrame(corner[0] + down, corner[1] + right));

// ---- One-hot

function showLabel() {
  const { label, pixels } = IMAGES[picked], probabilities = forward(Float32Array.from(pixels)).at(-1);
  document.querySelectorAll("[data-picture]").forEach((canvas) => paintImage(canvas, pixels, NETWORK.shape));
  put("label", NETWORK.classes[label]);
  put("hot", ...NETWORK.classes.slice(0, IMAGES.length).map((name, index) => {
    const bar = make("i"), share = make("div", "share", bar), title = make("div", "class", name);
    bar.style.height = `${100 * probabilities[index]}%`;
    title.title = name;
    const bit = make("div", "bit", index === label ? "1" : "0");
    return make("div", index === label ? "is" : "", title, bit, share, make("div", "", `${(100 * probabilities[index]).toFixed(1)}%`));
  }));
}

// ---- The dense network

function showDense() {
  if (!NETWORK.dense) return;
  const sizes = NETWORK.dense, height = 780, width = NARROW ? 640 : 1100, image = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: NARROW ? "slim" : "", role: "img", "aria-label": sizes.join(" → ") });
  const columns = sizes.map((size, index) => {
    const shown = Math.min(size, index === sizes.length - 1 ? 10 : index ? 9 : 11), isCut = shown < size;
    const x = 80 + ((width - 220) * index) / (sizes.length - 1), step = 580 / Math.max(shown + (isCut ? 1 : 0), 2);
    const middle = Math.ceil(shown / 2);
    const units = Array.from({ length: shown }, (_, i) => [x, 70 + step * (i + 0.5 + (isCut && i >= middle ? 1 : 0))]);
    return { size, x, units, gap: isCut ? 70 + step * (middle + 0.5) : null };
  });
  columns.slice(1).forEach(({ units }, index) => {
    for (const [x1, y1] of columns[index].units) for (const [x2, y2] of units) image.append(draw("line", { class: "wire", x1, y1, x2, y2 }));
  });
  columns.forEach(({ size, x, units, gap }, index) => {
    const isLast = index === columns.length - 1;
    for (const [cx, cy] of units) image.append(draw("circle", { class: "unit", cx, cy, r: 17 }));
    if (gap) image.append(draw("text", { x, y: gap, class: "bigger" }, "⋮"));
    if (isLast) units.forEach(([cx, cy], i) => {
      const name = draw("text", { x: cx + 34, y: cy, class: "big" }, units.length < size ? "" : shorten(NETWORK.classes[i], 8));
      name.style.textAnchor = "start";
      image.append(name);
    });
    image.append(draw("text", { x, y: 32, class: "bigger" }, whole(size)));
    if (index) {
      const before = columns[index - 1].size, at = (x + columns[index - 1].x) / 2;
      image.append(draw("text", { x: at, y: 692, class: "big" }, `${whole(before)} × ${whole(size)} + ${whole(size)}`));
      image.append(draw("text", { x: at, y: 740, class: "bigger" }, `= ${whole((before + 1) * size)}`));
    }
  });
  put("dense-figure", image);
}

const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// ---- A kernel, moved by hand

const PICTURE = NETWORK.picture, POSITIONS = PICTURE.length - 1;
const KERNELS = { "│": NETWORK.kernel, "─": [[-1, -1], [1, 1]], "╲": [[1, -1], [-1, 1]] };
let kernel = NETWORK.kernel, at = [0, 1];

/** The four products at a position, as pairs of a pixel and a weight. */
function products(row, column) {
  return [[0, 0], [0, 1], [1, 0], [1, 1]].map(([i, j]) => [PICTURE[row + i][column + j], kernel[i][j]]);
}

const sumAt = (row, column) => products(row, column).reduce((sum, [value, weight]) => sum + value * weight, 0);
const results = () => Array.from({ length: POSITIONS }, (_, row) => Array.from({ length: POSITIONS }, (_, column) => sumAt(row, column)));

function showKernel() {
  const values = results(), [row, column] = at, largest = largestOf(values.flat());
  const picture = grid(PICTURE.length, PICTURE.length, (i, j) => greyCell(PICTURE[i][j], 6));
  picture.append(frame(row, column, 2, 2, 7));
  picture.classList.add("hand");
  const result = grid(POSITIONS, POSITIONS, (i, j) => signedCell(values[i][j], 1.4 * largest));
  result.append(frame(row, column, 1, 1, 7));
  result.classList.add("pick");
  result.addEventListener("click", (event) => {
    const { row: i, column: j } = event.target.dataset;
    if (i) moveTo(Number(i), Number(j));
  });
  put("kernel-picture", picture);
  put("kernel-weights", grid(2, 2, (i, j) => signedCell(kernel[i][j], 1.6)));
  put("kernel-result", result);
  const terms = products(row, column).map(([value, weight]) => `${value}·${weight < 0 ? `(${short(weight)})` : weight}`).join(" + ");
  put("kernel-sum", `${terms} = `, make("b", "", short(values[row][column])));
}

function moveTo(row, column) {
  const next = [row, column].map((each) => clamp(each, 0, POSITIONS - 1));
  if (next.join() === at.join()) return;
  at = next;
  showKernel();
}

onDrag(find("kernel-picture"), (event) => {
  const [row, column] = positionIn(find("kernel-picture"), event);
  moveTo(Math.floor(row - 0.5), Math.floor(column - 0.5));
});
onArrows(find("kernel-picture"), "picture", (down, right) => moveTo(at[0] + down, at[1] + right));
find("choices").append(...Object.entries(KERNELS).map(([name, weights]) => {
  const button = make("button", "", name);
  button.type = "button";
  button.addEventListener("click", () => {
    kernel = weights;
    [...find("choices").children].forEach((each) => each.setAttribute("aria-pressed", each === button));
    showKernel();
  });
  button.setAttribute("aria-pressed", weights === kernel);
  return button;
}));

// ---- ReLU and pooling, on the result of the first kernel

const RESULT = results(), RECTIFIED = RESULT.map((row) => row.map((value) => Math.max(value, 0)));
const tile = (values, row, column) => [0, 1].flatMap((i) => [0, 1].map((j) => values[2 * row + i][2 * column + j]));
const maxima = (values) => [0, 1].map((row) => [0, 1].map((column) => Math.max(...tile(values, row, column))));
const means = (values) => [0, 1].map((row) => [0, 1].map((column) => tile(values, row, column).reduce(add) / 4));
const signedGrid = (values) => grid(values.length, values[0].length, (i, j) => signedCell(values[i][j], 1.4 * largestOf(RESULT.flat())));

function showRelu() {
  const box = (size, values, ...label) => make("div", size, make("div", "label", ...label), signedGrid(values));
  const sign = () => make("span", "sign", "→");
  const first = make("div", "grids", box("g5", RESULT, ...both("result", "결과")), sign(), box("g5", RECTIFIED, "ReLU"), sign(), box("g6", maxima(RECTIFIED), ...both("max pooling", "최대 풀링")));
  const other = make("div", "grids", box("g5", RESULT, ...both("result", "결과")), sign(), box("g6", maxima(RESULT), ...both("max pooling", "최대 풀링")), sign(), box("g6", maxima(RESULT).map((row) => row.map((value) => Math.max(value, 0))), "ReLU"));
  put("relu-figure", first, make("p", ""), other);
  find("relu-figure").querySelectorAll("svg").forEach(letEnlarge);
}

let chosenTile = [0, 0];
function showPooling() {
  const [row, column] = chosenTile, of = (i, j) => `tile${2 * i + j}`;
  const tiles = grid(4, 4, (i, j) => {
    const value = RECTIFIED[i][j], isLargest = value === Math.max(...tile(RECTIFIED, i >> 1, j >> 1));
    return { kind: of(i >> 1, j >> 1), texts: [short(value)], style: isLargest ? "bold" : "", size: isLargest ? 30 : 24 };
  });
  tiles.append(frame(2 * row, 2 * column, 2, 2, 7));
  const small = (values) => {
    const image = grid(2, 2, (i, j) => ({ kind: of(i, j), texts: [plain(values[i][j])], style: "bold", size: 21 }));
    image.append(frame(row, column, 1, 1, 6));
    return image;
  };
  const [largest, mean] = [small(maxima(RECTIFIED)), small(means(RECTIFIED))];
  for (const [image, step] of [[tiles, 2], [largest, 1], [mean, 1]]) {
    image.classList.add("pick");
    image.addEventListener("click", (event) => {
      const { row: i, column: j } = event.target.dataset;
      if (!i) return;
      chosenTile = [Math.floor(i / step), Math.floor(j / step)];
      showPooling();
    });
  }
  put("pool-tiles", tiles);
  put("pool-max", largest);
  put("pool-mean", mean);
  const values = tile(RECTIFIED, row, column);
  put("pool-sum", `max(${values.join(", ")}) = `, make("b", "", short(Math.max(...values))), make("br"), `(${values.join(" + ")}) / 4 = `, make("b", "", plain(values.reduce(add) / 4)));
}

onArrows(find("pool-tiles"), "tiles", (down, right) => {
  chosenTile = [clamp(chosenTile[0] + down, 0, 1), clamp(chosenTile[1] + right, 0, 1)];
  showPooling();
});

// ---- Dropout

/** Numbers from 0 to 1 that look random and are the same each time. */
function* randoms(seed) {
  for (let state = seed; ; yield state / 4294967296) state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
}

const dice = randoms(7), SOME = Array.from({ length: 16 }, () => Math.round(20 * dice.next().value) / 10);
let rate = Object.values(NETWORK.rates)[0];
function drop() {
  if (!find("dropout")) return;
  const outputs = SOME.map((value) => (dice.next().value < rate ? null : value / (1 - rate)));
  const cells = (values) => grid(4, 4, (i, j) => {
    const value = values[4 * i + j];
    return value === null ? { kind: "cell", share: 0.12, texts: ["0"], style: "zero" } : signedCell(value, 5.5, 24, value.toFixed(1));
  });
  put("drop-before", cells(SOME));
  put("drop-after", cells(outputs));
  put("drop-words", `${Math.round(100 * rate)}% → 0, × ${short(1 / (1 - rate))}`);
}

if (find("dropout")) {
  const again = make("button", "", ...both("Again", "다시"));
  again.type = "button";
  again.addEventListener("click", drop);
  find("rates").append(again, ...Object.entries(NETWORK.rates).map(([name, value]) => {
    const button = make("button", "", `${name}: ${Math.round(100 * value)}%`);
    button.type = "button";
    button.setAttribute("aria-pressed", name === Object.keys(NETWORK.rates)[0]);
    button.addEventListener("click", () => {
      rate = value;
      [...find("rates").children].slice(1).forEach((each) => each.setAttribute("aria-pressed", each === button));
      drop();
    });
    return button;
  }));
}

// ---- Learned kernels, and maps of a picture that one picks or draws

const FIRST = NETWORK.layers.findIndex(({ kind }) => kind === "Conv2D");
let activations = null, chosenKernel = 0, stage = FIRST;

/** A kernel of the first convolution, its first channel, as a grid. */
function kernelGrid(index, isWritten) {
  const { window: [rows, columns], arrays: [[start, length]], shape } = NETWORK.layers[FIRST], filters = shape.at(-1);
  const weights = WEIGHTS.subarray(start, start + length), channels = length / (rows * columns * filters);
  const value = (i, j) => weights[((i * columns + j) * channels) * filters + index];
  const first = weights.filter((_, i) => Math.floor(i / filters) % channels === 0), largest = largestOf(first);
  return grid(rows, columns, (i, j) => signedCell(value(i, j), largest, rows > 3 ? 17 : 18, isWritten && rows < 6 ? short(value(i, j)) : null), `kernel ${index + 1}`);
}

function showKernels() {
  if (FIRST < 0) return;
  const filters = NETWORK.layers[FIRST].shape.at(-1);
  find("kernel-list").style.gridTemplateColumns = `repeat(auto-fill, minmax(${filters > 40 ? 2.6 : 4}rem, 1fr))`;
  put("kernel-list", ...Array.from({ length: filters }, (_, index) => {
    const button = make("button", "", kernelGrid(index, false));
    button.type = "button";
    button.setAttribute("aria-label", `kernel ${index + 1}`);
    button.addEventListener("click", () => {
      chosenKernel = index;
      showKernelMap();
    });
    return button;
  }));
}

function showKernelMap() {
  [...find("kernel-list").children].forEach((button, i) => button.setAttribute("aria-pressed", i === chosenKernel));
  const { shape, name } = NETWORK.layers[FIRST];
  put("kernel-name", ...both(`kernel ${chosenKernel + 1} of ${name}`, `${name}의 커널 ${chosenKernel + 1}`));
  put("kernel-large", kernelGrid(chosenKernel, true));
  paintMap(find("kernel-map"), activations[FIRST], shape, chosenKernel, largestOf(activations[FIRST]));
}

/** Show all that the network makes of an image: raw pixels. `isGiven`: not drawn by hand. */
function see(pixels, isGiven) {
  activations = forward(pixels);
  paintImage(find("seen"), pixels, NETWORK.shape);
  if (isGiven) showInField(pixels);
  showKernelMap();
  showMaps();
  showAnswers(activations.at(-1));
}

function showMaps() {
  const { shape, name } = NETWORK.layers[stage], [height, width, maps = 1] = shape, values = activations[stage], largest = largestOf(values);
  [...find("stages").children].forEach((button) => button.setAttribute("aria-pressed", button.textContent === name));
  put("stage-name", `${name}: ${shape.join(" × ")}`);
  find("tiles").style.setProperty("--across", maps > 40 ? 13 : maps > 20 ? 8 : 6);
  put("tiles", ...Array.from({ length: maps }, (_, channel) => {
    const canvas = make("canvas");
    letEnlarge(canvas);
    paintMap(canvas, values, shape, channel, largest);
    return canvas;
  }));
}

function showAnswers(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities)), many = probabilities.length > 12;
  const order = [...probabilities.keys()];
  if (many) order.sort((one, other) => probabilities[other] - probabilities[one]);
  put("answers", ...order.slice(0, 12).map((label) => {
    const bar = make("i");
    bar.style.height = `${100 * probabilities[label]}%`;
    return make("div", label === best ? "is" : "", make("div", "share", bar), NETWORK.classes[label]);
  }));
}

const field = find("draw-field"), pen = field?.getContext("2d", { willReadFrequently: true });
const PAPER = NETWORK.digit ? 255 : 0; // digits are ink on paper, all else is light on black

function showInField(pixels) {
  const small = make("canvas");
  paintImage(small, NETWORK.digit ? pixels.map((value) => 255 - value) : pixels, NETWORK.shape);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, field.width, field.height);
  isDrawn = false;
}

let isDrawn = false, from = null, isWaiting = false;
function wipe() {
  pen.fillStyle = `rgb(${PAPER} ${PAPER} ${PAPER})`;
  pen.fillRect(0, 0, field.width, field.height);
}

function stroke(event) {
  const box = field.getBoundingClientRect();
  const to = [((event.clientX - box.left) * field.width) / box.width, ((event.clientY - box.top) * field.height) / box.height];
  if (!isDrawn) wipe(); // the first stroke takes the place of the image that was picked
  isDrawn = true;
  pen.strokeStyle = `rgb(${255 - PAPER} ${255 - PAPER} ${255 - PAPER})`;
  pen.lineWidth = field.width / 12;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...(from ?? to));
  pen.lineTo(...to);
  pen.stroke();
  from = to;
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    const seen = prepare(pen.getImageData(0, 0, field.width, field.height), NETWORK.shape, NETWORK.digit);
    if (seen) see(Float32Array.from(seen.image), false);
  });
}

if (field) {
  field.width = 280;
  field.height = Math.round((280 * HEIGHT) / WIDTH);
  field.addEventListener("pointerdown", (event) => {
    field.setPointerCapture(event.pointerId);
    from = null;
    stroke(event);
  });
  field.addEventListener("pointermove", (event) => { if (event.buttons) stroke(event); });
  find("wipe").addEventListener("click", () => {
    wipe();
    isDrawn = true;
  });
  const shown = NETWORK.layers.map((layer, index) => [layer, index]).filter(([{ kind, shape }, index]) => (
    index >= FIRST && shape.length === 3 && kind !== "Dropout" && kind !== "Reshape"
  ));
  find("stages").append(...shown.map(([{ name }, index]) => {
    const button = make("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => {
      stage = index;
      showMaps();
    });
    return button;
  }));
}

// ---- Losses

function showLosses() {
  const count = NETWORK.histories.length, across = Math.min(count, 3);
  find("charts").style.setProperty("--across", across);
  put("charts", ...NETWORK.histories.map(({ name, rows, best }) => {
    const chart = lossChart(rows, best, NETWORK.top, { width: NARROW ? 560 : 1200 / across, height: count > 3 || NARROW ? 350 : 620 });
    letEnlarge(chart);
    return make("div", "", make("h3", "", name), chart);
  }));
  const name = NETWORK.overfitting;
  if (!name) return;
  const { rows, best } = NETWORK.histories.find((each) => each.name === name);
  const top = 1.6 * Math.max(...rows.slice(best - 1).map((row) => row.val_loss));
  put("overfitting-chart", lossChart(rows, best, top, { width: NARROW ? 560 : 1100, height: NARROW ? 480 : 720, shade: true }));
}

/** −ln p, with three images' losses on it. */
function showEntropy() {
  const [left, right, high, low] = [70, NARROW ? 520 : 1040, 30, 620], top = 5, image = draw("svg", { viewBox: `0 0 ${right + 60} 720`, class: "chart", role: "img", "aria-label": "−ln p" });
  const x = (p) => left + (right - left) * p, y = (loss) => low - ((low - high) * loss) / top;
  for (let tick = 0; tick <= top; tick++) image.append(draw("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }), draw("text", { x: left - 30, y: y(tick) }, String(tick)));
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) image.append(draw("text", { x: x(tick), y: low + 32 }, `${100 * tick}%`));
  image.append(draw("text", { x: (left + right) / 2, y: 696 }, ...words("p, the probability of the right class", "p: 정답 클래스의 확률")));
  const shares = Array.from({ length: 200 }, (_, i) => Math.exp(-top) + ((1 - Math.exp(-top)) * i) / 199);
  image.append(draw("polyline", { class: "curve", points: shares.map((p) => `${x(p)},${y(-Math.log(p))}`).join(" ") }));
  const examples = [[0.99, "right and sure", "정답, 확신함", "end", 0, NARROW ? -38 : -66], [0.5, "unsure", "자신 없음", "start", 24, -28], [0.02, "wrong and sure", "오답, 확신함", "start", 30, 0]];
  for (const [p, en, ko, anchor, right, up] of examples) {
    const loss = -Math.log(p);
    image.append(draw("circle", { class: "dot", cx: x(p), cy: y(loss), r: 13 }));
    const text = draw("text", { class: "loud", x: x(p) + right, y: y(loss) + up, "font-size": 28 }, ...words(`${en}: ${loss.toFixed(2)}`, `${ko}: ${loss.toFixed(2)}`));
    text.style.textAnchor = anchor;
    image.append(text);
  }
  put("entropy-figure", image);
}

/** The models' accuracies with their intervals, and the book's where it has one. */
function showIntervals() {
  const models = NETWORK.models, lows = models.map(({ low }) => low), from = Math.min(...lows, NETWORK.book ?? 1), span = 1.02 * (1 - from) || 1;
  const height = 110 + 90 * models.length, [left, width] = NARROW ? [150, 640] : [240, 1250];
  const image = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": "accuracy" });
  const x = (share) => left + ((width - left - 60) * (share - 1 + span)) / span;
  for (const tick of ticks(span)) {
    image.append(draw("line", { class: "grid", x1: x(1 - tick), x2: x(1 - tick), y1: 50, y2: height - 50 }), draw("text", { x: x(1 - tick), y: height - 22 }, `${Number((100 - 100 * tick).toFixed(3))}%`));
  }
  if (NETWORK.book) {
    image.append(draw("line", { class: "against", x1: x(NETWORK.book), x2: x(NETWORK.book), y1: 40, y2: height - 50 }));
    image.append(draw("text", { class: "against", x: x(NETWORK.book), y: 20 }, ...words(`the book: ${(100 * NETWORK.book).toFixed(2)}%`, `책: ${(100 * NETWORK.book).toFixed(2)}%`)));
  }
  models.forEach(({ name, accuracy, low, high }, index) => {
    const y = 100 + 90 * index;
    image.append(draw("text", { class: "loud end", x: left - 20, y }, shorten(name, NARROW ? 9 : 15)), draw("line", { class: "whisker", x1: x(low), x2: x(high), y1: y, y2: y }), draw("circle", { class: "dot", cx: x(accuracy), cy: y, r: 13 }));
    image.append(draw("text", { class: "loud", x: x(accuracy), y: y - 34 }, `${(100 * accuracy).toFixed(2)}%`));
  });
  put("interval-figure", image);
}

// ---- Enlarging

const dialog = document.querySelector("dialog");

/** Let a click, or Enter or Space while it has the focus, enlarge a picture. */
function letEnlarge(element) {
  element.classList.add("zoom");
  element.tabIndex = 0;
  element.setAttribute("role", "button");
  if (element.matches("canvas")) element.setAttribute("aria-label", "picture");
}

function enlarge(element) {
  const inner = element.matches("svg, img, canvas") ? element : element.querySelector("svg");
  const copy = inner.cloneNode(true), caption = element.closest("li, .grids > div")?.querySelector("span, .label");
  if (inner.matches("canvas")) copy.getContext("2d").drawImage(inner, 0, 0);
  for (const name of ["id", "style", "tabindex"]) copy.removeAttribute(name);
  copy.setAttribute("role", "img");
  copy.classList.remove("zoom");
  dialog.firstElementChild.replaceChildren(copy, make("p", "", ...(caption ? [caption.cloneNode(true)] : [])));
  dialog.showModal();
}

document.addEventListener("click", ({ target }) => {
  const element = target.closest(".zoom");
  if (target.closest("dialog")) dialog.close();
  else if (element) enlarge(element);
});
document.addEventListener("keydown", (event) => {
  if (!["Enter", " "].includes(event.key) || !event.target.matches(".zoom")) return;
  event.preventDefault();
  enlarge(event.target);
});
document.querySelectorAll(".zoom").forEach(letEnlarge);

// ---- Steps and language

const SCREENS = [...document.querySelectorAll(".screen")];
let language = "en", current = 0;

function go(index) {
  current = clamp(index, 0, SCREENS.length - 1);
  history.replaceState(null, "", `#${language}-${SCREENS[current].id}`);
  update();
}

function update() {
  document.documentElement.lang = language;
  SCREENS.forEach((screen, index) => screen.classList.toggle("now", index === current));
  for (const link of document.querySelectorAll(".top nav a")) {
    link.toggleAttribute("aria-current", link.lang === language);
    link.href = `#${link.lang}-${SCREENS[current].id}`;
  }
  find("position").textContent = `${current + 1} / ${SCREENS.length}`;
  find("position").href = `#${language}-start`;
  find("back").disabled = current === 0;
  find("next").disabled = current === SCREENS.length - 1;
  for (const link of find("contents").querySelectorAll("a")) link.href = `#${language}-${link.dataset.screen}`;
  document.querySelector("main").scrollTop = 0;
  if (innerWidth < 960) scrollTo(0, 0);
}

function read() {
  const [code, screen] = location.hash.slice(1).split("-");
  language = ["en", "ko"].includes(code) ? code : navigator.language.startsWith("ko") ? "ko" : "en";
  current = Math.max(0, SCREENS.findIndex(({ id }) => id === (screen ?? SCREENS[current].id)));
  update();
}

const KEYS = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Home: -1000, End: 1000 };
const SCROLLING = ["ArrowDown", "ArrowUp", "PageDown", "PageUp", " "];

/** Whether a screen that is higher than the window goes on in this direction. */
function goesOn(step) {
  const { scrollTop, scrollHeight, clientHeight } = document.documentElement;
  return step > 0 ? scrollTop + clientHeight < scrollHeight - 1 : scrollTop > 0;
}

document.addEventListener("keydown", (event) => {
  const isPressed = event.key === " " && event.target.closest("button, a, .zoom");
  if (!(event.key in KEYS) || dialog.open || isPressed || event.altKey || event.ctrlKey || event.metaKey) return;
  const step = event.shiftKey && event.key === " " ? -1 : KEYS[event.key];
  if (SCROLLING.includes(event.key) && goesOn(step)) return; // the browser scrolls
  event.preventDefault();
  go(current + step);
});
find("back").addEventListener("click", () => go(current - 1));
find("next").addEventListener("click", () => go(current + 1));
addEventListener("hashchange", read);

find("contents").append(...SCREENS.slice(1).map((screen) => {
  const link = make("a", "", ...[...screen.querySelector("h2").childNodes].map((node) => node.cloneNode(true)));
  link.dataset.screen = screen.id;
  return make("li", "", link);
}));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (field) see(Float32Array.from(IMAGES[picked].pixels), true); });

document.body.classList.add("stepping");
showDense();
showKernel();
showRelu();
showPooling();
drop();
showKernels();
showLosses();
showEntropy();
showIntervals();
pick(picked);
read();
