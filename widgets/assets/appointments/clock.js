'use strict';

// Days and times, as the clock of a zone shows them and as the host's language writes them. A day is a string
// (2026-12-25), so that days compare and nothing shifts them by a zone.

const clock = {
  locale: undefined,
  formatters: new Map(),

  /** Writes as this language does from now on; one that nobody knows is the browser's own. */
  speak(locale) {
    try {
      clock.locale = Intl.getCanonicalLocales(locale.replaceAll('_', '-'))[0];
    } catch {
      clock.locale = undefined;
    }
  },

  /** A zone that the browser knows: this one, or UTC, which is right if not convenient. */
  zone(name) {
    try {
      clock.formatter({ timeZone: name });
      return name;
    } catch {
      return 'UTC';
    }
  },

  // Making a formatter costs as much as a hundred uses of it.
  formatter(options, locale = clock.locale) {
    const key = JSON.stringify([locale, options]);
    if (!clock.formatters.has(key)) clock.formatters.set(key, new Intl.DateTimeFormat(locale, options));
    return clock.formatters.get(key);
  },

  /** The day, and the minutes of it, that an instant is in a zone. */
  at(instant, timeZone) {
    const [date, time] = [{ year: 'numeric', month: '2-digit', day: '2-digit' }, { hour: '2-digit', minute: '2-digit' }];
    const formatter = clock.formatter({ timeZone, hourCycle: 'h23', ...date, ...time }, 'en-US');
    const pieces = formatter.formatToParts(new Date(instant)).map(({ type, value }) => [type, value]);
    const { year, month, day, hour, minute } = Object.fromEntries(pieces);
    return { day: `${year.padStart(4, '0')}-${month}-${day}`, minutes: Number(hour) * 60 + Number(minute) };
  },

  today(timeZone) {
    return clock.at(Date.now(), timeZone).day;
  },

  plus(day, days) {
    return new Date(Date.parse(day) + days * 86_400_000).toISOString().slice(0, 10);
  },

  /** The week that a day is in, from the day on which weeks begin in the host's language. */
  week(day) {
    const locale = new Intl.Locale(clock.locale ?? navigator.language);
    const first = (locale.getWeekInfo?.() ?? locale.weekInfo)?.firstDay ?? 1;
    const from = clock.plus(day, -((new Date(day).getUTCDay() - first + 7) % 7));
    return { from, to: clock.plus(from, 6) };
  },

  /** `09:00` for 540. */
  digits(minutes) {
    return [Math.floor(minutes / 60) % 24, minutes % 60].map((part) => String(part).padStart(2, '0')).join(':');
  },

  // === In words ===

  /** Whether a text is a day and nothing else. */
  isDay(text) {
    return /^\d{4}-\d{2}-\d{2}$/.test(text ?? '') && !Number.isNaN(Date.parse(text));
  },

  day(day, options) {
    return clock.formatter({ timeZone: 'UTC', ...options }).format(new Date(day));
  },

  longDay(day) {
    return clock.day(day, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
  },

  days(from, to, options = { year: 'numeric' }) {
    const formatter = clock.formatter({ timeZone: 'UTC', day: 'numeric', month: 'short', ...options });
    return formatter.formatRange(new Date(from), new Date(to));
  },

  /** From an instant to another, in a zone; with the days if they are not one. */
  times(from, to, timeZone) {
    const oneDay = clock.at(from, timeZone).day === clock.at(to - 1, timeZone).day;
    const date = oneDay ? {} : { weekday: 'short', day: 'numeric', month: 'short' };
    return clock.formatter({ timeZone, ...date, hour: 'numeric', minute: '2-digit' }).formatRange(new Date(from), new Date(to));
  },

  hour(hour) {
    return clock.formatter({ timeZone: 'UTC', hour: 'numeric' }).format(new Date(Date.UTC(2000, 0, 1, hour)));
  },

  /** `1 hr, 30 min`, for a number of minutes. */
  length(minutes) {
    const parts = [[Math.floor(minutes / 1440), 'day'], [Math.floor(minutes / 60) % 24, 'hour'], [minutes % 60, 'minute']];
    const words = parts.filter(([count]) => count > 0).map(([count, unit]) =>
      new Intl.NumberFormat(clock.locale, { style: 'unit', unit, unitDisplay: unit === 'day' ? 'long' : 'short' }).format(count));
    return words.join(' ');
  },
};
