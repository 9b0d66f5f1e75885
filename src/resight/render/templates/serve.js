"use strict";
// The page of a served net: one image at a time is asked about, and the answer drawn over it.

const facts = JSON.parse(byId("facts").textContent);
const SMALL_PX = 160; // a photo below is enlarged, pixel by pixel
const ENLARGED_PX = 320;
const THREE_DIGITS = { minimumFractionDigits: 3, maximumFractionDigits: 3 };
const SQUARES = {
  crop: "the square in the frame",
  pad: "the whole image between grey borders",
  squash: "the whole image squashed to a square",
};

let asked = null; // {blob, name, number}: the image that the page is about
let asking = 0; // how many images have been asked about
let camera = null; // a MediaStream

/** What the server answers to an image; throws its error in words. */
async function answerOf(path, { blob, name }) {
  const form = new FormData();
  form.append("file", blob, name);
  let response;
  try {
    response = await fetch(path, { method: "POST", body: form });
  } catch {
    throw new Error("The server does not answer: is it still running?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function ask(blob, name) {
  const now = { blob, name, number: ++asking };
  say(`Asking about ${name} …`);
  if (blob.size > facts.max_bytes) {
    say(`${name} is larger than the limit of ${count(facts.max_bytes / 1e6)} MB.`, true);
    return;
  }
  try {
    const [predicted, explained] = await Promise.all([
      answerOf("predict", now),
      answerOf("explain", now),
    ]);
    if (now.number !== asking) return; // another one has been asked about meanwhile
    asked = now;
    await drawAnswer(predicted.predictions[0], explained);
    say("");
    await drawNearest(now);
  } catch (error) {
    if (now.number !== asking) return;
    byId("answer").hidden = true; // of another image
    say(error.message, true);
  }
}

function say(words, wrong = false) {
  byId("status").textContent = words;
  byId("status").classList.toggle("flag", wrong);
}

async function drawAnswer(row, explained) {
  byId("answer").hidden = false;
  byId("verdict").textContent = `${row.predicted}, ${percent(row.confidence, 1, true)}`;
  byId("bars").replaceChildren(
    ...row.top.map((one) =>
      el(
        "li",
        { class: one.class === row.predicted ? "predicted" : "other" },
        el("span", { class: "probability-name", title: one.class }, one.class),
        el("span", {}),
        meter(one.probability, percent(one.probability, 1, true), one.class === row.predicted ? "true" : "other"),
      ),
    ),
  );
  const first = row.top.map((one) => one.class);
  const rest = facts.model.classes.filter((name) => !first.includes(name));
  byId("class").replaceChildren(
    ...[...first, ...rest].map((name) => el("option", { value: name }, name)),
  );
  await drawPhoto(explained);
  drawMap(explained);
  if (byId("answer").getBoundingClientRect().top > innerHeight / 2) byId("answer").scrollIntoView();
}

/** The photo at its own size, as far as it fits, and on it the square that the net sees. */
async function drawPhoto({ size: [width, height], square, seen, id }) {
  const url = URL.createObjectURL(asked.blob);
  const image = el("img", { alt: id, src: url });
  const px = facts.model.image_size;
  const what = width === height ? "the whole image" : SQUARES[facts.model.fit];
  let about = `The net sees ${what}, as ${px}×${px} px.`;
  try {
    await image.decode();
  } catch {
    image.src = seen;
    [width, height, square] = [px, px, [0, 0, px, px]];
    about = `The browser can't show such a file; this is what the net sees of it, ${px}×${px} px.`;
  }
  URL.revokeObjectURL(url);
  byId("photo-about").textContent = `${id} · ${about}`;
  const photo = byId("photo");
  const longer = Math.max(width, height);
  const small = longer < SMALL_PX;
  photo.classList.toggle("enlarged-photo", small);
  photo.style.aspectRatio = `${width} / ${height}`;
  photo.parentElement.style.setProperty("--own-px", `${small ? (width / longer) * ENLARGED_PX : width}px`);
  photo.parentElement.style.setProperty("--shape", width / height);
  const [left, top, right, bottom] = square;
  const place = {
    left: `${(100 * left) / width}%`,
    top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`,
    height: `${(100 * (bottom - top)) / height}%`,
  };
  const cuts = facts.model.fit === "crop" && width !== height;
  photo.replaceChildren(
    image,
    el("div", { id: "map", class: "on-photo", style: place }),
    ...(cuts ? [el("div", { class: "on-photo frame", style: place, "aria-hidden": "true" })] : []),
  );
}

function drawMap(explained) {
  const rows = explained.map;
  byId("class").value = explained.class;
  byId("map").replaceChildren();
  byId("map-about").textContent = explained.empty
    ? `Nothing in the image speaks for ${explained.class}: its map is empty.`
    : `Grad-CAM of ${rows.length}×${rows[0].length} cells (layer ${explained.layer}), for ${explained.class}.`;
  if (explained.empty) return;
  const times = 2 * Math.floor(SMOOTH_PX / 2 / Math.max(rows.length, rows[0].length)) + 1;
  const canvas = el("canvas", {
    class: "map",
    width: rows[0].length * times,
    height: rows.length * times,
    role: "img",
    "aria-label": `Evidence for ${explained.class}`,
  });
  const cells = Uint8Array.from(rows.flat(), (value) => Math.round(255 * value));
  paint(canvas, enlarged(cells, rows.length, rows[0].length, times));
  byId("map").append(canvas);
}

async function chooseClass() {
  const now = asked;
  try {
    const path = `explain?${new URLSearchParams({ class: byId("class").value })}`;
    const explained = await answerOf(path, now);
    if (now === asked) drawMap(explained);
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

async function drawNearest(now) {
  byId("nearest").hidden = true;
  if (!facts.nearest) return;
  if (!(await (await fetch("health")).json()).nearest) {
    setTimeout(() => now === asked && drawNearest(now), 2000); // they are still being looked at
    return;
  }
  const found = await answerOf("nearest", now);
  if (now !== asked) return;
  const pictures = openSheet(found.sheet);
  byId("nearest-list").replaceChildren(
    ...found.nearest.map((one, i) =>
      el(
        "li",
        { title: one.id },
        el("span", { class: "stack" }, pictures.picture(i, `${one.class}, ${one.id}`)),
        el("span", { class: "verdict strong" }, one.class),
        el("span", { class: "value" }, `similarity ${formatted(one.similarity, THREE_DIGITS)}`),
      ),
    ),
  );
  const among = found.compared < found.of ? `${count(found.compared)} of ${count(found.of)}` : count(found.of);
  byId("nearest-about").textContent =
    `By the cosine of what reaches the net's last layer, among ${among} training images.`;
  byId("nearest").hidden = false;
}

function drawExamples() {
  const { sheet, id } = facts.examples;
  if (!sheet) return;
  const pictures = openSheet(sheet);
  byId("example-list").replaceChildren(
    ...id.map((name, i) =>
      el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            class: "thumb",
            title: name,
            "aria-label": `Test image ${name}, ${facts.examples.class[i]}`,
            onclick: async () => {
              const response = await fetch(`examples/${i}`);
              ask(await response.blob(), name.split("/").pop());
            },
          },
          el("span", { class: "stack" }, pictures.picture(i, "")),
          el("span", { class: "verdict" }, facts.examples.class[i]),
        ),
      ),
    ),
  );
  byId("examples").hidden = false;
}

function askAboutFirst(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file) ask(file, file.name || "pasted image");
}

function wireFiles() {
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => {
    askAboutFirst(byId("file").files);
    byId("file").value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) askAboutFirst(event.clipboardData.files);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    askAboutFirst(event.dataTransfer.files);
  });
}

/** Browsers give cameras to pages from this machine, or with TLS, alone. */
function wireCamera() {
  if (!isSecureContext || !navigator.mediaDevices?.getUserMedia) return;
  byId("camera").hidden = false;
  byId("camera").addEventListener("click", async () => {
    try {
      camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      say(`The camera can't be used: ${error.message}`, true);
      return;
    }
    byId("video").srcObject = camera;
    await byId("video").play();
    byId("webcam").hidden = false;
    byId("camera").hidden = true;
  });
  byId("camera-off").addEventListener("click", cameraOff);
  byId("take").addEventListener("click", () => {
    const video = byId("video");
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => ask(blob, "camera.jpg"), "image/jpeg", 0.95);
  });
}

function cameraOff() {
  for (const track of camera.getTracks()) track.stop();
  byId("webcam").hidden = true;
  byId("camera").hidden = false;
}

function drawPage() {
  const { model } = facts;
  byId("title").textContent = facts.title;
  const size = `${counted(model.classes.length, "class", "classes")} · ${model.image_size}×${model.image_size} px`;
  byId("about").textContent = facts.accuracy ? `${size} · ${facts.accuracy}` : size;
  byId("made-by").textContent = `Made by Resight ${facts.resight}.`;
  byId("to-report").hidden = !facts.report;
  byId("commands").replaceChildren(
    command(`curl -F file=@photo.jpg ${location.origin}/predict`, "predict"),
    command(`curl -F file=@photo.jpg ${location.origin}/explain`, "explain"),
  );
  paintRampKeys();
  drawExamples();
  wireFiles();
  wireCamera();
  byId("class").addEventListener("change", chooseClass);
  byId("opacity").addEventListener("input", () => {
    document.documentElement.style.setProperty("--cam-opacity", byId("opacity").value);
  });
}

drawPage();
