// A person with a browser: opens the page that hosts widgets as ChatGPT does, and does with the appointments widget what there
// is to do. stdout carries one JSON line for each step; the first that fails ends the run, with a screenshot of that moment.

import { accessSync, constants, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { parseArgs } from "node:util";

import axe from "axe-core";
import puppeteer from "puppeteer-core";

const USAGE = `--url URL       where the server is, such as http://127.0.0.1:3000
  --bridge NAME   what the host speaks: mcp-apps, openai or both (default: both)
  --user NAME     whose appointments; their calendar is tests/calendars/overrides.ics (default: ada)
  --shots DIR     where screenshots go (default: widget-screenshots)`;

// How long anything may take that ought to happen at once. Generous, because the machine may be busy.
const PATIENCE_MS = 20_000;

const { url, bridge, user, shots } = options();
const BROWSERS = ["chromium", "chromium-browser", "google-chrome"];
// What a person sees in that calendar in April 2024: a weekly stand-up, once moved, once called off.
const APRIL = { userId: user, startDate: "2024-04-01", endDate: "2024-04-30" };

let page;
let shot = 0;
// What the page's policy has refused, by its directive.
const refusals = new Map();

const steps = {
  async "the page and its frame are held to a policy"() {
    for (const [path, directive] of [["", "script-src 'sha256-"], ["/frame", "sandbox allow-scripts allow-forms"]]) {
      const answer = await fetch(`${url}/widget-test${path}`);
      const header = (name) => answer.headers.get(name) ?? "";
      equal(answer.status, 200, `the status of /widget-test${path}`);
      check(header("content-type").startsWith("text/html"), `/widget-test${path} is ${header("content-type")}`);
      check(header("content-security-policy").includes(directive), `the policy of /widget-test${path} has no ${directive}`);
      equal(header("x-content-type-options"), "nosniff", "X-Content-Type-Options");
      equal(header("referrer-policy"), "no-referrer", "Referrer-Policy");
      equal(header("cache-control"), "no-store", "Cache-Control");
      equal(header("cross-origin-resource-policy"), "same-origin", "Cross-Origin-Resource-Policy");
      check(header("permissions-policy").includes("usb=()"), `the page may use ${header("permissions-policy")}`);
      check(!/script-src[^;]*unsafe/.test(header("content-security-policy")), "a script of anybody's may run");
    }
    const { headers } = await fetch(`${url}/widget-test`);
    equal(headers.get("cross-origin-opener-policy"), "same-origin", "Cross-Origin-Opener-Policy");
    for (const directive of ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "trusted-types 'none'"]) {
      check(headers.get("content-security-policy").includes(directive), `the policy has no ${directive}`);
    }
  },

  // Were there a hole in the page, this is what would be put into it.
  async "what somebody puts into the page does not run"() {
    const markup = `<script>window.ran = "script"</script><img src="data:," onerror="window.ran = 'attribute'">
      <a id="trap" href="javascript:window.ran='address'">x</a><base href="https://evil.example.net/">
      <form id="form" action="https://evil.example.net/"></form><iframe src="https://evil.example.net/"></iframe>
      <script src="https://evil.example.net/x.js"></script><object data="https://evil.example.net/x"></object>`;
    const put = async (request) => {
      if (!request.isNavigationRequest() || request.frame() !== page.mainFrame()) return request.continue();
      const answer = await fetch(request.url());
      const body = (await answer.text()).replace("<main>", `${markup}<main>`);
      return request.respond({ status: 200, headers: Object.fromEntries(answer.headers), body });
    };
    await page.setRequestInterception(true);
    page.on("request", put);
    await page.goto(`${url}/widget-test`);
    await page.waitForFunction(() => window.openai !== undefined);
    await page.click("#trap");
    await page.evaluate(() => document.getElementById("form").submit());
    const tries = await page.evaluate(() => {
      const script = document.createElement("script");
      const outcomes = [() => { script.textContent = "window.ran = 'made'"; document.head.append(script); },
        () => { document.body.insertAdjacentHTML("beforeend", "<p></p>"); }];
      // A browser may refuse this at once or when its time has come.
      try { setTimeout("window.ran = 'later'", 0); } catch { /* as it should be */ }
      return outcomes.map((act) => { try { act(); } catch { return "refused"; } return "done"; });
    });
    equal(tries, ["refused", "refused"], "what a text may become");
    const expected = ["base-uri", "form-action", "frame-src", "object-src", "script-src-attr", "script-src-elem"];
    await until(() => equal(expected.filter((directive) => !refusals.has(directive)), [], "what was not refused"));
    equal(await page.evaluate(() => [window.ran ?? null, document.baseURI]), [null, `${url}/widget-test`], "what ran");
    page.off("request", put);
    await page.setRequestInterception(false);
    refusals.clear();
  },

  async "nobody puts the page into a frame"() {
    await page.goto(`${url}/health`);
    await page.evaluate((address) => {
      const frame = document.createElement("iframe");
      frame.src = address;
      document.body.append(frame);
      return new Promise((resolve) => frame.addEventListener("load", resolve, { once: true }));
    }, `${url}/widget-test`);
    const reached = () => { try { return document.querySelector("iframe").contentDocument?.title ?? null; } catch { return null; } };
    equal(await page.evaluate(reached), null, "the page in the frame");
  },

  // As a smoke test of a deployment asks it.
  async "the widget runtime initializes"() {
    await page.goto(`${url}/widget-test`);
    await page.waitForFunction(() => window.openai !== undefined);
    const names = ["setWidgetState", "navigateToFullScreen", "createActionRequest"];
    const kinds = await page.evaluate((names) => names.map((name) => typeof window.openai[name]), names);
    equal(kinds, names.map(() => "function"), "window.openai of the page");
    await stage('[data-phase="without"]');
    await sound(page, "the page before anything is called");
  },

  async "appointments are drawn"() {
    await open(APRIL);
    await titles("Standup", "Standup, moved", "Standup", "Standup");
    const address = await page.$eval('[data-testid="address"]', ({ placeholder }) => placeholder);
    const ending = bridge === "openai" ? "skybridge.html" : "html";
    check(new RegExp(`^ui://widgets/appointments/[0-9a-f]{16}\\.${ending}$`).test(address), `the widget is at ${address}`);
    await picture("list");
    const toggle = () => page.$$eval('[data-testid="log"] summary', (entries) => entries.forEach((entry) => entry.click()));
    await toggle();
    await sound(page, "the page with every message open");
    await toggle();
    await sound(await frame(), "the list");
  },

  async "an appointment is booked"() {
    await press("book");
    await fill({ title: "Dentist", date: "2024-04-16", time: "10:00", duration: "60", location: "Marktplatz 3" });
    await sound(await frame(), "the form");
    await picture("form");
    await press("form-go");
    await card("Dentist", { day: "2024-04-16", status: "confirmed" });
    await picture("booked");
  },

  async "a slot that is taken is refused in words"() {
    await press("book");
    await fill({ title: "Hairdresser", date: "2024-04-22", time: "09:15", duration: "30" });
    await press("form-go");
    const words = await text("form-error");
    check(words.includes("Standup"), `it says nothing of what is in the way: ${words}`);
    await sound(await frame(), "the refusal");
    await picture("refused");
    await press("form-close");
  },

  async "an appointment is moved"() {
    await act("Dentist", "reschedule");
    await fill({ date: "2024-04-17", time: "15:30" });
    await press("form-go");
    await card("Dentist", { day: "2024-04-17", status: "confirmed" });
  },

  async "an appointment is cancelled"() {
    await act("Dentist", "cancel");
    await visible("cancel-dialog");
    await sound(await frame(), "the question");
    await press("cancel-go");
    await card("Dentist", { day: "2024-04-17", status: "cancelled" });
    await picture("cancelled");
  },

  async "a day is drawn by the hour"() {
    await press("tab-day");
    await visible("day-grid");
    await sound(await frame(), "the day");
    await picture("day");
  },

  async "the widget is loaded again"() {
    await page.click('[data-testid="reload"]');
    await stage('[data-phase="ready"][data-call="done"]');
    // MCP Apps has no place for a widget's state, and a frame without an origin has no storage: it is as it was first.
    if (bridge === "mcp-apps") await titles("Standup", "Standup, moved", "Standup", "Standup");
    else await visible("day-grid");
  },

  async "it is dark"() {
    await choose("theme", "dark");
    await (await frame()).waitForSelector(':root[data-theme="dark"]');
    await picture("dark-day");
    await press("tab-list");
    await visible("list");
    await sound(page, "the dark page");
    await sound(await frame(), "the dark list");
    await picture("dark");
  },

  async "it is as narrow as a telephone"() {
    await choose("width", "360");
    // A border is the host's.
    await (await frame()).waitForFunction(() => window.innerWidth > 350 && window.innerWidth <= 360);
    const [content, width] = await (await frame()).evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    check(content <= width, `the widget is ${content} wide in ${width}`);
    await sound(await frame(), "the narrow list");
    await picture("narrow-dark");
    await choose("theme", "light");
    await (await frame()).waitForSelector(':root[data-theme="light"]');
    await picture("narrow");
    await choose("width", "640");
  },

  async "it takes the whole screen and gives it back"() {
    await press("expand");
    await stage('[data-display="fullscreen"]');
    await (await frame()).waitForSelector(':root[data-display-mode="fullscreen"]');
    await sound(page, "the page at full screen");
    await picture("fullscreen");
    await page.click('[data-testid="leave-fullscreen"]');
    await stage('[data-display="inline"]');
  },

  async "a search that finds nothing says so"() {
    await (await frame()).locator('[data-testid="search"]').fill("zeppelin");
    await press("search-go");
    await visible("empty");
    await sound(await frame(), "nothing");
    await picture("empty");
    await press("search-end");
  },

  async "a server that cannot be reached is told of, and asked again"() {
    await open(APRIL);
    await titles("Standup", "Standup, moved", "Standup", "Dentist", "Standup");
    await cut(true);
    await press("next");
    await visible("failure");
    await sound(await frame(), "the failure");
    await picture("failure");
    await cut(false);
    await press("retry");
    await titles("Choir", "Choir", "Choir in the evening", "Choir in the evening");
  },

  async "a call that is refused is shown with its words"() {
    await open({ userId: user, startDate: "yesterday" });
    await stage('[data-call="error"]');
    const words = await page.$eval('[data-testid="call-error"]', (place) => place.textContent);
    check(words.includes("startDate"), `the page does not say what is wrong: ${words}`);
    // Of a refusal, `window.openai` tells a widget nothing.
    if (bridge !== "openai") await visible("failure");
    await sound(page, "the page with an error");
    await picture("error");
  },

  async "the host gives a widget what it has, and refuses the rest"() {
    await open(APRIL);
    if (bridge !== "openai") await inMcpApps();
    if (bridge !== "mcp-apps") await inOpenai();
    else check(await (await frame()).evaluate(() => !("openai" in window)), "a host of MCP Apps has window.openai");
    const reach = await (await frame()).evaluate(async () => {
      const tries = { fetch: () => fetch("/health"), parent: () => window.parent.document, storage: () => window.localStorage };
      const outcomes = Object.entries(tries).map(async ([name, act]) => {
        try { await act(); } catch { return null; }
        return name;
      });
      return (await Promise.all(outcomes)).filter(Boolean);
    });
    equal(reach, [], "what the widget reaches");
    // The page tells of what we have just made it try.
    await page.waitForSelector('[data-testid="log"] [data-method="refused by the policy"]');
    await page.click('[data-testid="log-clear"]');
  },

  async "the page's own window.openai acts on the widget"() {
    await page.evaluate(() => window.openai.navigateToFullScreen());
    await stage('[data-display="fullscreen"]');
    equal(await page.evaluate(() => window.openai.displayMode), "fullscreen", "window.openai.displayMode");
    await page.evaluate(() => window.openai.requestDisplayMode({ mode: "inline" }));
    await stage('[data-display="inline"]');
    const called = (args) => page.evaluate((args) => window.openai.createActionRequest("search_appointments", args), args);
    equal((await called(APRIL)).structuredContent.data.count, 5, "the appointments that were found");
    await page.evaluate(() => window.openai.setWidgetState({ view: "day" }));
    equal(await page.evaluate(() => window.openai.widgetState), { view: "day" }, "window.openai.widgetState");
  },

  // A link must not make somebody's browser change something.
  async "a link calls nothing that changes something"() {
    const wish = { userId: user, title: "Trap", startsAt: "2024-04-10T10:00", durationMinutes: 30 };
    await page.goto(link({ tool: "book_appointment", arguments: JSON.stringify(wish) }));
    await stage('[data-phase="without"][data-call="none"]');
    equal((await page.$$('[data-testid="log"] [data-method="tools/call"]')).length, 0, "the number of calls");
    await page.click('[data-testid="call"]');
    await stage('[data-phase="ready"][data-call="done"]');
    await card("Trap", { day: "2024-04-10", status: "confirmed" });
    await picture("called");
  },

  // In every field that a stranger may write: by an invitation, a calendar, or a model that was talked into it.
  async "what a stranger wrote is text in the widget and on the page"() {
    const traps = ["<img src=x onerror=window.owned=1>", "</script><script>window.owned=1</script>", "\"><svg onload=window.owned=1>"];
    const [first, second, third] = traps;
    for (const [number, [title, location, description]] of [[first, second, third], [second, third, first], [third, first, second]].entries()) {
      const wish = { userId: user, title, location, description, startsAt: `2024-06-0${number + 3}T10:00`, durationMinutes: 30 };
      const booked = await page.evaluate((wish) => window.openai.createActionRequest("book_appointment", wish), wish);
      equal(booked.structuredContent.data.appointment.location, location, "the place as it was written");
    }
    await open({ userId: user, startDate: "2024-06-02", endDate: "2024-06-06" });
    await titles(...traps);
    const isText = async (view, what) => {
      const found = () => [window.owned ?? null, document.querySelectorAll("img, [onerror], [onload], iframe:not([data-testid])").length];
      equal(await view.evaluate(found), [null, 0], `what came of it in ${what}`);
    };
    await isText(await frame(), "the list");
    check((await (await frame()).evaluate(() => document.body.textContent)).includes(second), "a place is not drawn as text");
    await press("tab-day");
    await visible("day-grid");
    await isText(await frame(), "the day");
    await press("tab-list");
    await act(first, "cancel");
    await visible("cancel-dialog");
    await isText(await frame(), "the question");
    await picture("strangers");
    await press("cancel-go");
    await card(first, { day: "2024-06-03", status: "cancelled" });
    for (const pane of ["log", "input", "output", "meta", "state"]) {
      await page.click(`[data-testid="tab-${pane}"]`);
      await isText(page, `the pane ${pane}`);
    }
    await page.click('[data-testid="tab-log"]');
  },

  async "the page is usable where there is little room"() {
    await page.setViewport({ width: 800, height: 1000 });
    await open(APRIL);
    const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    check(content <= width, `the page is ${content} wide in ${width}`);
    await picture("little-room");
    for (const pane of ["input", "output", "meta", "state"]) {
      await page.click(`[data-testid="tab-${pane}"]`);
      await page.waitForSelector(`[data-testid="pane-${pane}"]`, { visible: true });
      await sound(page, `the pane ${pane}`);
    }
    await picture("panes");
  },
};

// === What a host answers, asked by hand from inside the frame ===

async function inMcpApps() {
  const view = await frame();
  const ask = (method, params) => view.evaluate((method, params) => new Promise((resolve) => {
    const id = crypto.randomUUID?.() ?? String(Math.random());
    window.addEventListener("message", function hear({ data }) {
      if (data?.id !== id) return;
      window.removeEventListener("message", hear);
      resolve(data);
    });
    window.parent.postMessage({ jsonrpc: "2.0", id, method, params }, "*");
  }), method, params);

  equal((await ask("ping")).result, {}, "the answer to a ping");
  const { result: welcome } = await ask("ui/initialize", {
    protocolVersion: "2026-01-26",
    appInfo: { name: "appointments", version: "1" },
    appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
  });
  equal(welcome.protocolVersion, "2026-01-26", "the protocol");
  for (const key of ["serverTools", "serverResources", "openLinks", "message", "updateModelContext", "logging"]) {
    check(key in welcome.hostCapabilities, `the host does not offer ${key}`);
  }
  const { theme, locale, displayMode, availableDisplayModes, toolInfo, containerDimensions } = welcome.hostContext;
  equal([theme, locale, displayMode], ["light", "en-US", "inline"], "the circumstances");
  equal(availableDisplayModes, ["inline", "pip", "fullscreen"], "the ways to be drawn");
  equal(toolInfo.tool.name, "search_appointments", "the tool");
  check(containerDimensions.width > 600, `the box is ${containerDimensions.width} wide`);

  const called = await ask("tools/call", { name: "search_appointments", arguments: APRIL });
  equal(called.result.structuredContent.data.count, 5, "the appointments that were found");
  equal((await ask("tools/call", { name: "no_such_tool" })).error.code, -32602, "the answer to a tool that is not there");
  equal((await ask("ui/request-display-mode", { mode: "pip" })).result, { mode: "inline" }, "a way that it does not know");
  equal((await ask("ui/no-such-thing")).error.code, -32601, "the answer to what there is not");
  const address = toolInfo.tool._meta.ui.resourceUri;
  equal((await ask("resources/read", { uri: address })).result.contents[0].uri, address, "the resource that is read");

  equal((await ask("ui/message", { role: "user", content: [{ type: "text", text: "And in May?" }] })).result, {}, "a message");
  await page.waitForSelector('[data-testid="message"] ::-p-text(And in May?)');
  check((await ask("ui/message", { role: "assistant", content: [] })).error, "a message of somebody else is taken");
  equal((await ask("ui/open-link", { url: "https://example.com/standup" })).result, {}, "a link");
  await page.waitForSelector('[data-testid="link"] a[href="https://example.com/standup"]');
  check((await ask("ui/open-link", { url: "javascript:alert(1)" })).error, "a script is taken for a page");
  equal((await ask("ui/update-model-context", { structuredContent: { sees: "April" } })).result, {}, "the model's context");
  await page.click('[data-testid="tab-state"]');
  await page.waitForSelector('[data-testid="pane-state"] ::-p-text("sees")');
  await page.click('[data-testid="tab-log"]');
}

async function inOpenai() {
  const view = await frame();
  const globals = await view.evaluate(() => {
    const { toolInput, toolOutput, theme, locale, displayMode, maxHeight, safeArea, view, userAgent } = window.openai;
    return { toolInput, count: toolOutput.data.count, theme, locale, displayMode, maxHeight, safeArea, view, userAgent };
  });
  equal(globals.toolInput, APRIL, "window.openai.toolInput");
  equal([globals.count, globals.theme, globals.locale, globals.displayMode], [5, "light", "en-US", "inline"], "the globals");
  equal([globals.view.mode, globals.userAgent.device.type], ["inline", "desktop"], "what is drawn, and on what");
  equal(globals.safeArea, { insets: { top: 0, right: 0, bottom: 0, left: 0 } }, "window.openai.safeArea");
  const meta = await view.evaluate(() => window.openai.toolResponseMetadata);
  equal(meta["appointments/timeZone"], "Europe/Berlin", "window.openai.toolResponseMetadata");

  const called = await view.evaluate((args) => window.openai.callTool("search_appointments", args), APRIL);
  equal(called.structuredContent.data.count, 5, "the appointments that were found");
  const heard = await view.evaluate(() => new Promise((resolve) => {
    window.addEventListener("openai:set_globals", ({ detail }) => resolve(detail.globals), { once: true });
    window.openai.setWidgetState({ view: "list" });
  }));
  equal(heard, { widgetState: { view: "list" } }, "what openai:set_globals tells");
  await view.evaluate(() => window.openai.sendFollowUpMessage({ prompt: "And in June?" }));
  await page.waitForSelector('[data-testid="message"] ::-p-text(And in June?)');
  await view.evaluate(() => window.openai.openExternal({ href: "https://example.com/june" }));
  await page.waitForSelector('[data-testid="link"] a[href="https://example.com/june"]');
  for (const [method, ...args] of [["selectFiles"], ["uploadFile", {}], ["getFileDownloadUrl", {}], ["requestCheckout", {}]]) {
    const refused = (method, args) => window.openai[method](...args).catch(({ message }) => message);
    const words = await view.evaluate(refused, method, args);
    check(words?.includes("not available here"), `${method} is not refused: ${words}`);
  }

  await view.evaluate(() => window.openai.requestModal({ title: "A closer look", params: { about: "Standup" } }));
  await page.waitForSelector('[data-testid="modal"][open]');
  const modal = await (await page.waitForSelector('[data-testid="modal-frame"]')).contentFrame();
  await modal.waitForFunction(() => window.openai?.view.params?.about === "Standup" && window.openai.view.mode === "modal");
  await modal.waitForSelector('[data-testid="list"]');
  await sound(page, "the page with a dialog");
  await picture("modal");
  // The frame goes while it asks, so there is no answer to wait for.
  await modal.evaluate(() => { window.openai.requestClose(); });
  await page.waitForSelector('[data-testid="modal"]:not([open])');
}

// === The page ===

function link(more) {
  return `${url}/widget-test?${new URLSearchParams({ bridge, theme: "light", locale: "en-US", width: "640", ...more })}`;
}

async function open(args) {
  await page.goto(link({ tool: "search_appointments", arguments: JSON.stringify(args) }));
  await stage('[data-phase="ready"]:not([data-call="working"])');
}

async function stage(state) {
  await page.waitForSelector(`[data-testid="stage"]${state}`);
}

async function choose(name, value) {
  await page.$eval(`input[name="${name}"][value="${value}"]`, (choice) => choice.click());
}

/** Cuts the page off from the server, or no longer. */
async function cut(isCut) {
  await page.setRequestInterception(isCut);
  if (isCut) page.on("request", refuse);
  else page.off("request", refuse);
}

function refuse(request) {
  request.abort();
}

/** The widget's frame, which is a new one whenever the widget is loaded again. */
async function frame() {
  return (await page.waitForSelector('[data-testid="widget-frame"]')).contentFrame();
}

// === The widget ===

async function visible(testid) {
  return (await frame()).waitForSelector(`[data-testid="${testid}"]`, { visible: true });
}

async function press(testid) {
  await (await frame()).locator(`[data-testid="${testid}"]`).click();
}

async function text(testid) {
  return (await visible(testid)).evaluate((place) => place.textContent);
}

async function fill(fields) {
  await visible("form-dialog");
  const view = await frame();
  for (const [name, value] of Object.entries(fields)) await view.locator(`[data-testid="form-${name}"]`).fill(value);
}

/** Waits until these appointments are listed, and nothing else. */
async function titles(...expected) {
  const words = (titles) => titles.map(({ textContent }) => textContent);
  await until(async () => {
    const found = await (await frame()).$$eval('[data-testid="appointment-title"]', words);
    equal(found, expected, "the appointments in the list");
  });
}

/** Waits for the card of an appointment on this day, with this status. */
async function card(title, { day, status }) {
  const card = `[data-testid="day"][data-day="${day}"] [data-testid="appointment"][data-status="${status}"]`;
  await (await frame()).waitForSelector(`${card} ::-p-text(${title})`);
}

/** Presses a button on the card of an appointment. */
async function act(title, testid) {
  const label = `${testid[0].toUpperCase()}${testid.slice(1)} ${title}`;
  await (await frame()).locator(`[data-testid="${testid}"][aria-label="${label}"]`).click();
}

/** Waits until this no longer fails. */
async function until(holds) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await holds();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

// === Looking ===

/** Fails unless axe-core finds nothing to complain of. */
async function sound(target, what) {
  await settled(target);
  await target.evaluate(axe.source);
  const violations = await target.evaluate(async () => {
    const { violations } = await window.axe.run(document, { iframes: false, resultTypes: ["violations"] });
    const where = (nodes) => nodes.map(({ target }) => target.join(" ")).slice(0, 3);
    return violations.map(({ id, help, nodes }) => ({ id, help, where: where(nodes) }));
  });
  equal(violations, [], `what axe-core finds in ${what}`);
}

/** Waits for what moves: in the midst of a change, colors are neither the old ones nor the new ones. */
async function settled(target) {
  await target.evaluate(async () => {
    const passes = ({ effect }) => effect.getComputedTiming().endTime !== Infinity;
    const passing = document.getAnimations().filter(passes);
    await Promise.allSettled(passing.map(({ finished }) => finished));
  });
}

async function picture(name) {
  shot += 1;
  await settled(page);
  await settled(await frame());
  await page.screenshot({ path: join(shots, `${bridge}-${String(shot).padStart(2, "0")}-${name}.png`) });
}

/** What went wrong in the page and its widgets that nobody was told of. */
async function troubles() {
  const entry = '[data-testid="log"] [data-kind="error"][data-from="widget"]';
  return page.$$eval(entry, (entries) => entries.map(({ textContent }) => textContent.replace(/\s+/g, " ").trim()));
}

// === Running ===

function check(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

function equal(found, expected, what) {
  check(JSON.stringify(found) === JSON.stringify(expected), `${what}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        url: { type: "string" },
        bridge: { type: "string", default: "both" },
        user: { type: "string", default: "ada" },
        shots: { type: "string", default: "widget-screenshots" },
      },
    });
    if (!values.url) throw new Error("--url is missing");
    if (!["mcp-apps", "openai", "both"].includes(values.bridge)) throw new Error(`there is no bridge ${values.bridge}`);
    return { ...values, url: new URL(values.url).origin };
  } catch (error) {
    process.stderr.write(`${error.message}\n\nOptions:\n  ${USAGE}\n`);
    process.exit(64);
  }
}

function browserPath() {
  const isThere = (path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  const folders = (process.env.PATH ?? "").split(delimiter);
  const paths = (name) => (name.includes("/") ? [name] : folders.map((folder) => join(folder, name)));
  const found = (process.env.CHROMIUM ? [process.env.CHROMIUM] : BROWSERS).flatMap(paths).find(isThere);
  if (found) return found;
  process.stderr.write("no Chromium was found: run `./dev test`, which installs one, or let CHROMIUM name it\n");
  process.exit(69);
}

mkdirSync(shots, { recursive: true });
const browser = await puppeteer.launch({
  executablePath: browserPath(),
  // It ends with us even if we are killed, because the pipe does.
  pipe: true,
  // The sandbox of Chromium refuses to run as root, which is what containers run as.
  args: ["--lang=en-US", ...(process.getuid?.() === 0 ? ["--no-sandbox"] : [])],
});
let current = "the browser opens a page";
try {
  page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  await page.setViewport({ width: 1280, height: 900 });
  await page.emulateTimezone("Europe/Berlin");
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(error.stack ?? error.message));
  // What a widget tries is told on the page; what the page itself tries against its own policy is a mistake.
  await page.exposeFunction("tellRefusal", (directive, what) => refusals.set(directive, what));
  await page.evaluateOnNewDocument(() => {
    if (window.top !== window) return;
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI, sourceFile, lineNumber }) => {
      window.tellRefusal(effectiveDirective, `${effectiveDirective} refuses ${blockedURI} at ${sourceFile}:${lineNumber}`);
    });
  });
  for (const [name, act] of Object.entries(steps)) {
    current = name;
    const started = performance.now();
    await act();
    equal([...wrong, ...refusals.values(), ...(await troubles())], [], "errors that nobody was told of");
    process.stdout.write(`${JSON.stringify({ step: name, ok: true, ms: Math.round(performance.now() - started) })}\n`);
  }
} catch (error) {
  const path = join(shots, `${bridge}-failed.png`);
  await page?.screenshot({ path }).catch(() => undefined);
  const { message: problem, stack } = error;
  process.stdout.write(`${JSON.stringify({ step: current, ok: false, problem, stack, screenshot: path })}\n`);
  process.exitCode = 1;
}
await browser.close();
