'use strict';

// What is on the screen: what the user has chosen to see, how far we are in showing it, and how one comes of the other.
// Drawing asks nobody and changes nothing but the page, so it may be done at any time.

const part = (id) => document.getElementById(id);

const scene = {
  /** What the user has chosen: kept by the host, and restored. */
  chosen: { view: 'list', date: null, query: '', from: '', to: '', hideCancelled: false },
  /** 'loading', 'ready' or 'failed', and then why, and what to do to try again. */
  phase: 'loading',
  failure: '',
  again: null,
  /** Whether loading has taken so long that it is to be seen. */
  isLate: false,
  /** The appointment that was changed, to be pointed out once. */
  marked: null,

  date() {
    return scene.chosen.date ?? clock.today(calendar.zone);
  },

  isDay() {
    return scene.chosen.view === 'day';
  },

  /** What is to be seen of the appointments that are known. */
  shown() {
    const { query, hideCancelled } = scene.chosen;
    const date = scene.date();
    const words = scene.plain(query).split(/\s+/).filter(Boolean);
    return calendar.appointments.filter(({ title, location, description, status, first, last }) => {
      if (hideCancelled && status === 'cancelled') return false;
      if (scene.isDay()) return first <= date && last >= date;
      const text = scene.plain([title, location, description].join(' '));
      return words.every((word) => text.includes(word));
    });
  },

  /** Without accents and capitals, which nobody types who looks for something. */
  plain(text) {
    return text.normalize('NFD').replace(/\p{M}/gu, '').toLocaleLowerCase();
  },

  // === Drawing ===

  draw() {
    const { phase } = scene;
    const appointments = scene.shown();
    scene.drawControls();
    const isUnknown = !calendar.user;
    part('period').textContent = isUnknown ? { failed: 'Not available' }[phase] ?? 'Loading…' : scene.period();
    part('count').textContent = phase === 'ready' ? scene.count(appointments) : '';
    part('panel').setAttribute('aria-busy', String(phase === 'loading'));
    // Until it is late, what was there stays.
    if (phase !== 'loading') scene.replace(phase === 'failed' ? scene.trouble() : scene.content(appointments));
    else if (scene.isLate || isUnknown) scene.replace(list.copy('skeleton-template'));
  },

  drawControls() {
    const { chosen } = scene;
    for (const view of ['list', 'day']) {
      const tab = part(`tab-${view}`);
      tab.setAttribute('aria-selected', String(chosen.view === view));
      tab.tabIndex = chosen.view === view ? 0 : -1;
    }
    part('panel').setAttribute('aria-labelledby', `tab-${chosen.view}`);
    const period = scene.isDay() ? 'day' : scene.isWeek() ? 'week' : 'period';
    part('previous').setAttribute('aria-label', `Previous ${period}`);
    part('next').setAttribute('aria-label', `Next ${period}`);
    // Nothing can be asked for until we know for whom.
    const isUnknown = !calendar.user;
    const controls = ['tab-list', 'tab-day', 'previous', 'today', 'next', 'search', 'search-go', 'book'];
    for (const id of controls) part(id).disabled = isUnknown;
    part('zone').textContent = isUnknown ? '' : `Times in ${calendar.zone}`;
    const { displayMode, displayModes } = calendar.host;
    part('expand').hidden = !displayModes.includes('fullscreen');
    part('expand').setAttribute('aria-label', displayMode === 'fullscreen' ? 'Leave full screen' : 'Full screen');
    part('filters').hidden = !chosen.query || scene.isDay();
    part('search-from').value = chosen.from;
    part('search-to').value = chosen.to;
    part('hide-cancelled').checked = chosen.hideCancelled;
  },

  replace(content) {
    const hadFocus = part('content').contains(document.activeElement);
    part('content').replaceChildren(content);
    const marked = scene.marked && part('content').querySelector(`[data-id="${CSS.escape(scene.marked)}"]`);
    if (marked) {
      scene.marked = null;
      marked.classList.add('is-marked');
    }
    // The focus is moved only if it was here and is lost: a widget that appears must not take it from the conversation.
    const isLost = hadFocus || [document.body, part('panel')].includes(document.activeElement);
    if (document.hasFocus() && isLost && (marked || hadFocus)) (marked?.querySelector('button') ?? part('panel')).focus();
  },

  content(appointments) {
    if (scene.isDay()) return day.draw(appointments, scene.date());
    const pieces = document.createDocumentFragment();
    pieces.append(appointments.length ? list.draw(appointments, calendar.span) : scene.nothing());
    if (calendar.more) pieces.append(list.copy('more-template'));
    return pieces;
  },

  nothing() {
    const { query, from } = scene.chosen;
    const piece = list.copy('empty-template');
    list.write(piece, 'words', query ? `Nothing matches “${query}”.` : 'Nothing planned.');
    list.write(piece, 'hint', query && `${scene.period()}.`);
    piece.querySelector('[data-act="book"]').hidden = Boolean(query);
    piece.querySelector('[data-act="search-earlier"]').hidden = !query || !from;
    return piece;
  },

  trouble() {
    const piece = list.copy('failure-template');
    list.write(piece, 'words', scene.failure);
    piece.querySelector('[data-act="retry"]').hidden = !scene.again;
    return piece;
  },

  // === In words ===

  isWeek() {
    const { span } = calendar;
    return !span?.from || !span.to || clock.plus(span.from, 6) === span.to;
  },

  period() {
    if (scene.isDay()) return clock.longDay(scene.date());
    const { from, to } = scene.chosen.query ? scene.chosen : calendar.span ?? clock.week(scene.date());
    if (from && to) return clock.days(from, to);
    if (from) return `From ${clock.days(from, from)} on`;
    return to ? `Until ${clock.days(to, to)}` : 'All appointments';
  },

  count({ length }) {
    const orMore = length && calendar.more && !scene.isDay() ? ' or more' : '';
    const words = `${length || 'No'}${orMore} ${length === 1 ? 'appointment' : 'appointments'}`;
    return scene.chosen.query && !scene.isDay() ? `${words} matching “${scene.chosen.query}”` : words;
  },

  /** Says aloud what was done and what is to be seen. */
  announce() {
    const words = [part('notice-words').textContent, `${part('count').textContent}, ${scene.period()}`];
    part('announce').textContent = words.filter(Boolean).join(' ');
  },

  /** Says what was done; an empty text takes it back. */
  notify(words) {
    part('notice').hidden = !words;
    part('notice-words').textContent = words;
    if (words) part('announce').textContent = words;
  },
};
