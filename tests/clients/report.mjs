// A team lead who opens the report of a deploy the next day: it draws without a network, has no error, is sound for assistive
// technology, light and dark, wide and narrow. Screenshots of all four go into a directory.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import axe from "axe-core";
import puppeteer from "puppeteer-core";

const USAGE = "report.mjs --file REPORT.html --shots DIR; CHROMIUM names the browser";

const { values } = parseArgs({ options: { file: { type: "string" }, shots: { type: "string" } } });
if (!values.file || !values.shots || !process.env.CHROMIUM) {
  console.error(USAGE);
  process.exit(64);
}
mkdirSync(values.shots, { recursive: true });

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  pipe: true,
  // The sandbox of Chromium refuses to run as root, which is what containers run as.
  args: ["--lang=en-US", ...(process.getuid?.() === 0 ? ["--no-sandbox"] : [])],
});
const troubles = [];
try {
  for (const scheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      const page = await browser.newPage();
      page.on("console", (message) => message.type() === "error" && troubles.push(`${scheme} ${width}: ${message.text()}`));
      page.on("pageerror", (error) => troubles.push(`${scheme} ${width}: ${error.message}`));
      page.on("request", (request) => {
        if (!/^(file|data):/.test(request.url())) troubles.push(`${scheme} ${width}: it asks for ${request.url()}`);
      });
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(pathToFileURL(values.file).href);
      const charts = await page.$$eval("svg", (charts) => charts.length);
      if (charts === 0) troubles.push(`${scheme} ${width}: there is no chart`);
      const [content, room] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
      if (content > room) troubles.push(`${scheme} ${width}: it is ${content} wide in ${room}`);
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      for (const { id, help, nodes } of violations) {
        troubles.push(`${scheme} ${width}: ${id}: ${help}: ${nodes.map(({ target }) => target.join(" ")).slice(0, 3).join(", ")}`);
      }
      await page.screenshot({ path: join(values.shots, `report-${scheme}-${width}.png`), fullPage: true });
      await page.close();
    }
  }
} finally {
  await browser.close();
}
for (const trouble of troubles) console.error(trouble);
process.exitCode = troubles.length ? 1 : 0;
