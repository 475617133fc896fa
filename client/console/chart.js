// Two lines over the last two minutes, on a canvas: what came in and what went out.

const WINDOW = 120; // seconds
const GAP = 3.5; // seconds without a point: nobody looked, so nothing is claimed
const MARGIN = { left: 46, right: 8, top: 8, bottom: 18 };

/** Draw points of {time, [names[0]]: number, [names[1]]: number}; colours are those of the CSS
    variables --in, --out, --edge and --quiet. */
export function drawChart(canvas, points, names) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  const style = getComputedStyle(canvas);
  const values = points.flatMap((point) => names.map((name) => point[name]));
  const top = roundUp(Math.max(1, ...values));
  const end = points.at(-1)?.time ?? 0;
  const inner = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  const x = (time) => width - MARGIN.right - ((end - time) / WINDOW) * inner[0];
  const y = (value) => height - MARGIN.bottom - (value / top) * inner[1];
  drawGrid(pen, style, { x, y, top, end, width, height });
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  names.forEach((name, i) => {
    pen.strokeStyle = style.getPropertyValue(["--in", "--out"][i]);
    const placed = points.map(({ time, [name]: value }) => ({ time, at: [x(time), y(value)] }));
    drawLine(pen, placed);
  });
}

function drawGrid(pen, style, { x, y, top, end, width, height }) {
  pen.strokeStyle = style.getPropertyValue("--edge");
  pen.fillStyle = style.getPropertyValue("--quiet");
  pen.font = `11px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const value of [0, top / 2, top]) {
    pen.beginPath();
    pen.moveTo(MARGIN.left, y(value));
    pen.lineTo(width - MARGIN.right, y(value));
    pen.stroke();
    pen.fillText(shorten(value), MARGIN.left - 6, y(value));
  }
  pen.textBaseline = "alphabetic";
  pen.textAlign = "left";
  pen.fillText("−2 min", x(end - WINDOW), height - 4);
  pen.textAlign = "right";
  pen.fillText("now", x(end), height - 4);
}

function drawLine(pen, points) {
  pen.beginPath();
  points.forEach(({ time, at }, i) => {
    if (i && time - points[i - 1].time < GAP) pen.lineTo(...at);
    else pen.moveTo(...at);
  });
  pen.stroke();
}

/** The next number of 1, 2, 5, 10, 20, 50 … */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

/** A number in a few characters: 0.5, 12, 3.4k, 1.2M. */
export function shorten(value) {
  const [, unit, size] = [[1e9, "G", 1e9], [1e6, "M", 1e6], [1e3, "k", 1e3], [0, "", 1]]
    .find(([least]) => value >= least);
  const number = value / size;
  return `${Number(number.toFixed(number < 10 ? 1 : 0))}${unit}`;
}
