// Builds what browsers get: respan/assets/* and templates/* -> respan/static/dist/*, whose output is committed.
//
// `npm run build` writes; `npm run check` builds elsewhere and fails when the committed output differs. Needs Node 20
// and `npm ci`; running Respan needs neither. Each text file is also written compressed (.br, .gz): WhiteNoise serves
// those as they are.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync, mkdirSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from "node:zlib";
import { build } from "esbuild";
import { PurgeCSS } from "purgecss";
import subsetFont from "subset-font";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const dist = join(root, "respan", "static", "dist");
const modules = join(root, "node_modules");

async function make(folder) {
  mkdirSync(folder, { recursive: true });
  await font(folder);
  tailwind(join(folder, "respan.css"));
  await purge(join(folder, "respan.css"));
  await build({
    entryPoints: ["respan.js", "theme.js"].map((name) => join(here, name)),
    outdir: folder, bundle: true, minify: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "error",
    nodePaths: [modules],
  });
  icons(folder);
  for (const name of readdirSync(folder)) {
    if (!/\.(css|js)$/.test(name)) continue;
    const data = readFileSync(join(folder, name));
    const quality = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: data.length };
    writeFileSync(join(folder, `${name}.br`), brotliCompressSync(data, { params: quality }));
    writeFileSync(join(folder, `${name}.gz`), gzipSync(data, { level: 9 }));
  }
}

function tailwind(path) {
  execFileSync(
    process.execPath,
    [join(modules, "@tailwindcss", "cli", "dist", "index.mjs"), "--minify", "--input", join(here, "respan.css"), "--output", path],
    { cwd: root, stdio: ["ignore", "ignore", process.env.DEBUG ? "inherit" : "pipe"] },
  );
}

// Basecoat comes whole; what no page uses goes (three fifths of it). A class that only a script or Python writes has to
// stand in one of these files.
async function purge(path) {
  const [result] = await new PurgeCSS().purge({
    content: [join(root, "templates/**/*.html"), join(here, "*.js"), join(root, "{respan,accounts,billing,traces,gateway}/**/*.py")],
    css: [path],
    defaultExtractor: (text) => [
      ...text.split(/[\s"'`<>={}();,]+/),
      ...(text.match(/[^\s"'`<>]*[^\s"'`<>:.,;]/g) ?? []), // utilities with brackets in them
    ],
    safelist: { greedy: [/^flash-/, /^htmx-/, /tone-/, /:popover-open/, /data-theme/], standard: ["dialog", "open"] },
    fontFace: false, keyframes: false, variables: false,
  });
  writeFileSync(path, result.css);
}

// Inter, variable: the characters of western European writing and of our own figures, half of the whole file. Other
// writing falls back to the system's fonts.
async function font(folder) {
  const whole = readFileSync(join(modules, "@fontsource-variable", "inter", "files", "inter-latin-wght-normal.woff2"));
  let text = "–—‘’“”…·•→←↑↓×≤≥≈€£µ°©™";
  for (let code = 0x20; code <= 0x7e; code++) text += String.fromCharCode(code);
  for (let code = 0xc0; code <= 0xff; code++) text += String.fromCharCode(code);
  const small = await subsetFont(whole, text, { targetFormat: "woff2", variationAxes: { wght: { min: 400, max: 700 } } });
  writeFileSync(join(folder, "inter.woff2"), small);
}

// The icons named in icons.txt, as the inner part of their SVG: the template tag `icon` writes them into the page.
function icons(folder) {
  const named = readFileSync(join(here, "icons.txt"), "utf8").split(/\s+/).filter(Boolean).sort();
  const found = {};
  for (const name of named) {
    const svg = readFileSync(join(modules, "lucide-static", "icons", `${name}.svg`), "utf8");
    found[name] = svg.replace(/<!--.*?-->/gs, "").replace(/^\s*<svg[^>]*>|<\/svg>\s*$/gs, "").replace(/\s*\n\s*/g, "");
  }
  writeFileSync(join(folder, "icons.json"), `${JSON.stringify(found, null, 1)}\n`);
}

function read(folder, name) {
  const data = readFileSync(join(folder, name));
  // The same text may be compressed differently by another zlib: what counts is what comes out.
  if (name.endsWith(".br")) return brotliDecompressSync(data);
  if (name.endsWith(".gz")) return gunzipSync(data);
  return data;
}

async function differing() {
  const folder = mkdtempSync(join(tmpdir(), "assets-"));
  try {
    await make(folder);
    const names = [...new Set([...readdirSync(folder), ...readdirSync(dist)])].sort();
    return names.map((name) => difference(folder, name)).filter(Boolean);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function difference(folder, name) {
  if (!existsSync(join(folder, name)) || !existsSync(join(dist, name))) return `${name}: is there once only`;
  const made = read(folder, name).toString(), kept = read(dist, name).toString();
  if (made === kept) return "";
  let at = 0;
  while (made[at] === kept[at]) at += 1;
  return `${name}: made …${made.slice(Math.max(0, at - 60), at + 90)}…, kept …${kept.slice(Math.max(0, at - 60), at + 90)}…`;
}

// One build in ten or so comes out different: Tailwind 4.3's optimizer then leaves a declaration out of a rule or moves a
// rule. What five builds in a row do not make is out of date.
async function check() {
  let found = await differing();
  for (let builds = 1; found.length && builds < 5; builds += 1) found = await differing();
  if (found.length) {
    console.error(`respan/static/dist is not what respan/assets and templates make.\nRun: make assets\n${found.join("\n")}`);
    process.exitCode = 1;
  }
}

// Whether another build makes the same style sheet: see `check`.
async function isUsual(folder) {
  const path = join(folder, "again.css");
  tailwind(path);
  await purge(path);
  const again = readFileSync(path);
  rmSync(path);
  return again.equals(readFileSync(join(folder, "respan.css")));
}

if (process.argv.includes("--check")) {
  await check();
} else {
  // Made beside it and put in its place file by file: whoever serves pages meanwhile finds every file.
  const folder = mkdtempSync(join(dirname(dist), "dist-"));
  do await make(folder); while (!(await isUsual(folder)));
  mkdirSync(dist, { recursive: true });
  for (const name of readdirSync(dist)) if (!existsSync(join(folder, name))) rmSync(join(dist, name));
  for (const name of readdirSync(folder)) renameSync(join(folder, name), join(dist, name));
  rmSync(folder, { recursive: true });
}
