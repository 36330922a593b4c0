'use strict';

// The appointments widget: what is asked for when, and who hears which button.
//
// What must stay true: what is drawn is what a tool said last, and an answer that comes when something else has been asked for
// is not drawn.

const host = connectHost({ name: 'appointments', version: '1', displayModes: ['inline', 'fullscreen'] });
const { chosen } = scene;
calendar.host = host;

// An answer within this time is drawn without a flicker of something else.
const LATE_MS = 150;

// Counts what is asked for, so that an answer knows whether it is still wanted.
let turn = 0;
let isFirst = true;
let isKept = false;

// === What a host tells ===

/** A tool has been called, or its result has come. */
function receive() {
  clock.speak(host.locale);
  if (host.toolError) {
    stop();
    calendar.adopt(null, null, host.toolInput);
    fail(host.toolError, calendar.user && (() => load(() => calendar.search(clock.week(scene.date())))));
  } else if (host.toolOutput) {
    stop();
    const isSearch = calendar.adopt(host.toolOutput, host.toolMeta, host.toolInput);
    chosen.date = firstDay();
    if (!isSearch) tellChange();
    // A later result is news, whatever was chosen for the one before.
    if (host.state && isFirst) restore();
    else goTo(chosen.date, isSearch);
    isFirst = false;
  }
}

/** The day to begin with: today if it was searched, or else the nearest of what was found. */
function firstDay() {
  const { appointments, span } = calendar;
  const today = clock.today(calendar.zone);
  if (span?.from) return isWithin(today, span) ? today : span.from;
  return (appointments.find(({ last }) => last >= today) ?? appointments.at(-1))?.first ?? today;
}

/** Says what a tool has done that was called in the conversation. */
function tellChange() {
  const [appointment] = calendar.appointments;
  if (!appointment) return;
  scene.marked = appointment.id;
  const done = appointment.status === 'cancelled' ? 'Cancelled' : host.toolInput?.appointmentId ? 'Moved' : 'Booked';
  scene.notify(`${done} “${appointment.title}”, ${list.whenInFull(appointment)}.`);
}

/** Shows what was chosen before. Since then, somebody may have booked or cancelled. */
function restore() {
  const { state } = host;
  for (const key of ['query', 'from', 'to']) if (typeof state[key] === 'string') chosen[key] = state[key];
  if (['list', 'day'].includes(state.view)) chosen.view = state.view;
  if (clock.isDay(state.date)) chosen.date = state.date;
  chosen.hideCancelled = state.hideCancelled === true;
  part('search').value = chosen.query;
  const { from, to } = state.span ?? {};
  if (chosen.query) lookFor();
  else load(() => calendar.search(clock.isDay(from) && clock.isDay(to) ? { from, to } : clock.week(scene.date())));
}

function save() {
  // What nobody has chosen need not be kept.
  if (navigator.userActivation?.hasBeenActive === false) return;
  isKept = true;
  host.setState({ ...chosen, span: calendar.span, lastChange: part('notice-words').textContent });
}

// === What is asked for ===

/** Asks, and draws what comes of it; skeletons if that takes a while. */
async function load(ask) {
  stop();
  const mine = turn;
  Object.assign(scene, { phase: 'loading', isLate: false });
  scene.draw();
  const late = setTimeout(() => {
    if (turn !== mine) return;
    scene.isLate = true;
    part('announce').textContent = 'Loading appointments…';
    scene.draw();
  }, LATE_MS);
  try {
    await ask();
    if (turn === mine) show();
  } catch (error) {
    if (!(error instanceof ToolFailure)) throw error;
    if (turn === mine) fail(error.message, () => load(ask));
  } finally {
    clearTimeout(late);
  }
}

/** Whatever is being asked for is not wanted any more. */
function stop() {
  turn += 1;
  calendar.forget();
}

/** Draws what is known. */
function show() {
  scene.phase = 'ready';
  scene.draw();
  scene.announce();
  save();
}

function fail(failure, again) {
  Object.assign(scene, { phase: 'failed', failure, again });
  scene.draw();
}

/** Shows a day, and in the list what surrounds it, asking for its week if that is not known. */
function goTo(date, isKnown = calendar.knows(date)) {
  chosen.date = date;
  if (isKnown) {
    stop();
    show();
  } else {
    load(() => calendar.search(clock.week(date)));
  }
}

/** Leafs by a day, or by as many days as the list shows. */
function leaf(direction) {
  scene.notify('');
  if (scene.isDay()) {
    goTo(clock.plus(scene.date(), direction));
    return;
  }
  const { from, to } = isClosed(calendar.span) ? calendar.span : clock.week(scene.date());
  const days = direction * ((Date.parse(to) - Date.parse(from)) / 86_400_000 + 1);
  const span = { from: clock.plus(from, days), to: clock.plus(to, days) };
  const today = clock.today(calendar.zone);
  endSearch();
  chosen.date = isWithin(today, span) ? today : span.from;
  load(() => calendar.search(span));
}

/** Looks for the words in the search box: from today on, unless the user says from when. */
function search(from = part('filters').hidden ? clock.today(calendar.zone) : part('search-from').value) {
  scene.notify('');
  const query = part('search').value.trim();
  if (query) {
    Object.assign(chosen, { view: 'list', query, from, to: part('search-to').value });
    lookFor();
  } else {
    endSearch();
    load(() => calendar.search(clock.week(scene.date())));
  }
}

/** Asks for the days in which words are looked for; the words are ours to find in them. */
function lookFor() {
  load(() => calendar.search({ from: chosen.from || null, to: chosen.to || null }));
}

function endSearch() {
  Object.assign(chosen, { query: '', from: '', to: '' });
  part('search').value = '';
}

/** An appointment was booked, moved or cancelled here. */
function changed(appointment, done) {
  scene.notify(`${done} “${appointment.title}”, ${list.whenInFull(appointment)}.`);
  scene.marked = appointment.id;
  // A new one is shown where it is, not among what was looked for.
  if (done === 'Booked') endSearch();
  if (chosen.query) lookFor();
  else goTo(appointment.first);
}

function isClosed(span) {
  return Boolean(span?.from && span.to);
}

function isWithin(date, span) {
  return (span.from ?? date) <= date && (span.to ?? date) >= date;
}

// === Who hears what ===

const acts = {
  details: (appointment) => dialogs.details(appointment),
  reschedule: (appointment) => dialogs.reschedule(appointment),
  cancel: (appointment) => dialogs.cancel(appointment),
  open: ({ location }) => host.openLink(location).catch(({ message }) => scene.notify(`The page was not opened: ${message}.`)),
  book: () => dialogs.book(scene.date()),
  retry: () => scene.again(),
  more: () => load(() => calendar.searchOn()),
  'search-earlier': () => {
    const yearAgo = clock.plus(clock.today(calendar.zone), -365);
    search(chosen.from > yearAgo ? yearAgo : '');
  },
};

function pressed(event) {
  const button = event.target.closest('[data-act]');
  // A click between appointments books there. For pointers only; a keyboard has the button.
  const hours = event.target.closest('.hours');
  if (button) {
    const { act } = button.dataset;
    const { id } = button.closest('[data-id]')?.dataset ?? {};
    const appointment = id ? calendar.find(id) : dialogs.about;
    // One question at a time.
    if (act !== 'open') button.closest('dialog')?.close();
    acts[act](appointment);
  } else if (hours) {
    dialogs.book(scene.date(), day.pointedAt(hours, event));
  }
}

function choose(view) {
  if (chosen.view === view) return;
  scene.notify('');
  chosen.view = view;
  part(`tab-${view}`).focus();
  // Days may have been leafed through meanwhile, and what was looked for left behind.
  if (view === 'list' && chosen.query) lookFor();
  else goTo(scene.date(), view === 'list' && calendar.span ? isWithin(scene.date(), calendar.span) : undefined);
}

function onPress(id, act) {
  part(id).addEventListener('click', (event) => {
    event.preventDefault();
    act();
  });
}

onPress('tab-list', () => choose('list'));
onPress('tab-day', () => choose('day'));
onPress('previous', () => leaf(-1));
onPress('next', () => leaf(1));
onPress('today', () => {
  scene.notify('');
  endSearch();
  const today = clock.today(calendar.zone);
  goTo(today, calendar.knows(today) && (scene.isDay() || isClosed(calendar.span)));
});
onPress('book', () => dialogs.book(scene.date()));
onPress('expand', () => {
  const mode = host.displayMode === 'fullscreen' ? 'inline' : 'fullscreen';
  host.requestDisplayMode(mode).catch(({ message }) => scene.notify(`The size was not changed: ${message}.`));
});
onPress('search-go', () => search());
onPress('filters-go', () => search());
onPress('search-end', () => {
  part('search').value = '';
  search();
  part('search').focus();
});
onPress('notice-close', () => scene.notify(''));
onPress('form-go', () => dialogs.submit());
onPress('cancel-go', () => dialogs.confirm());

// Arrows, as in every list of tabs.
part('tabs').addEventListener('keydown', ({ key }) => {
  const other = scene.isDay() ? 'list' : 'day';
  const view = { ArrowLeft: other, ArrowRight: other, Home: 'list', End: 'day' }[key];
  if (view) choose(view);
});
// The cross that browsers draw into a search box empties it.
part('search').addEventListener('input', () => {
  if (!part('search').value && chosen.query) search();
});
part('hide-cancelled').addEventListener('change', ({ target }) => {
  chosen.hideCancelled = target.checked;
  scene.draw();
  scene.announce();
  save();
});
part('content').addEventListener('click', pressed);
dialogs.element('details').addEventListener('click', pressed);
for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('close', () => { document.body.style.minHeight = ''; });
  dialog.querySelector('[data-close]').addEventListener('click', () => dialog.close());
}
dialogs.onChange = changed;
dialogs.onFailure = (words) => scene.notify(words);

// A minute is as fine as the clock is read.
setInterval(() => {
  const grid = document.querySelector('.grid');
  if (grid) day.tick(grid);
}, 60_000);

host.on('tool', receive);
host.on('cancelled', (reason) => fail(reason ? `This was cancelled: ${reason}` : 'This was cancelled.', null));
host.on('context', () => {
  clock.speak(host.locale);
  scene.draw();
});
host.on('state', () => {
  // What a widget keeps comes back to it, too.
  if (calendar.user && !isKept) restore();
});
host.on('connection', () => {
  if (host.connection !== 'none') return;
  fail('Nobody has answered. This page is drawn by a host, such as ChatGPT, in a conversation.', null);
});
scene.draw();
