'use strict';

// Appointments as a list of days, and what list and day have in common: cards, badges, words. Whatever somebody wrote is
// put in as text.

const list = {
  /** A copy of a template's only element. */
  copy(template) {
    return document.getElementById(template).content.firstElementChild.cloneNode(true);
  },

  /** Writes words into a part of a copy, or takes the part away if there are none. */
  write(element, part, words) {
    const place = element.querySelector(`[data-part="${part}"]`);
    if (words) place.textContent = words;
    else place.remove();
  },

  /** A day's appointments under its date, one day after the other. */
  draw(appointments, span) {
    const days = new Map();
    for (const appointment of appointments) {
      // What began before is listed where the list begins.
      const day = span?.from > appointment.first ? span.from : appointment.first;
      if (!days.has(day)) days.set(day, []);
      days.get(day).push(appointment);
    }
    const sections = document.createElement('div');
    sections.className = 'days';
    sections.dataset.testid = 'list';
    const today = clock.today(calendar.zone);
    let month = '';
    for (const day of [...days.keys()].sort()) {
      const section = list.copy('day-template');
      section.dataset.day = day;
      section.classList.toggle('is-today', day === today);
      list.write(section, 'weekday', clock.day(day, { weekday: 'short' }));
      list.write(section, 'number', clock.day(day, { day: 'numeric' }));
      // Once is enough: the words have it every time.
      list.write(section, 'month', month === day.slice(0, 7) ? '' : clock.day(day, { month: 'short' }));
      month = day.slice(0, 7);
      list.write(section, 'words', clock.longDay(day) + (day === today ? ', today' : ''));
      section.querySelector('ol').append(...days.get(day).map(list.card));
      sections.append(section);
    }
    return sections;
  },

  card(appointment) {
    const card = list.copy('card-template');
    const { id, title, status } = appointment;
    card.dataset.id = id;
    card.dataset.status = status;
    list.write(card, 'title', title);
    list.write(card, 'time', list.when(appointment));
    list.write(card, 'note', appointment.description);
    list.place(card, appointment);
    list.badges(card, appointment);
    for (const [act, words] of [['reschedule', `Reschedule ${title}`], ['cancel', `Cancel ${title}`]]) {
      const button = card.querySelector(`[data-act="${act}"]`);
      button.setAttribute('aria-label', words);
      if (!list.isOurs(appointment)) button.remove();
    }
    return card;
  },

  /** Where it takes place; what is a web page can be opened. */
  place(element, { location }) {
    const place = element.querySelector('[data-part="place"]');
    if (!location) {
      place.remove();
      return;
    }
    const isPage = /^https?:\/\/\S+$/i.test(location);
    const words = document.createElement(isPage ? 'button' : 'span');
    words.textContent = location;
    if (isPage) Object.assign(words, { type: 'button', className: 'link' }).dataset.act = 'open';
    place.append(words);
  },

  badges(element, { status, imported }) {
    const words = [status === 'confirmed' ? '' : status, imported ? 'imported' : ''].filter(Boolean);
    const badges = element.querySelector('[data-part="badges"]');
    if (!words.length) badges.remove();
    badges.replaceChildren(...words.map((word) => {
      const badge = document.createElement('span');
      badge.className = 'badge';
      badge.dataset.word = word;
      badge.textContent = word[0].toUpperCase() + word.slice(1);
      return badge;
    }));
  },

  /** Whether it can be changed here: an imported one is changed where it came from, a cancelled one no more. */
  isOurs({ status, imported }) {
    return !imported && status !== 'cancelled';
  },

  when({ allDay, first, last, from, to }) {
    if (!allDay) return clock.times(from, to, calendar.zone);
    return first === last ? 'All day' : `All day, ${clock.days(first, last, {})}`;
  },

  /** With the date, for a sentence. */
  whenInFull(appointment) {
    const { allDay, first, last, from, to } = appointment;
    if (allDay) return first === last ? `${clock.longDay(first)}, all day` : `${clock.days(first, last)}, all day`;
    const times = clock.times(from, to, calendar.zone);
    return first === last ? `${clock.longDay(first)}, ${times}` : times;
  },
};
