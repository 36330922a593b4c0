'use strict';

// What is known of a user's appointments, and the only place that calls the tools. What is known is one span of days at a
// time; whatever leaves it is asked for anew, because the conversation, too, books and cancels.

/** Why a call did not do what it was for, in words for the user. */
class ToolFailure extends Error {}

/** No answer came, so that nobody knows what has happened. */
class NoAnswer extends ToolFailure {}

const calendar = {
  host: null,
  user: null,
  zone: 'UTC',
  /** From the first day to the last, either of which may be open; null is no span at all. */
  span: null,
  /** What is known of it, with places, by start. */
  appointments: [],
  /** What to ask for the rest of it. */
  more: null,
  /** Whether its first and last day may have more to them, because it was searched by the minute. */
  isPartial: false,
  searches: 0,
  /** The write whose answer was lost: what was asked, and its key. */
  lost: null,

  // A page is at most a hundred; a few of them are a very busy week.
  PAGE: 100,
  PAGES: 5,

  /** Takes what a tool found or changed; true if it was a search, which tells all of the span that was asked for. */
  adopt(output, meta, input) {
    const data = output?.data ?? {};
    calendar.user = data.userId ?? input?.userId ?? calendar.user;
    const said = meta?.['appointments/timeZone'] ?? input?.timeZone ?? data.appointment?.timeZone ?? calendar.host.timeZone;
    calendar.zone = clock.zone(said ?? Intl.DateTimeFormat().resolvedOptions().timeZone);
    if (!Array.isArray(data.appointments)) {
      // One appointment says nothing of the days around it.
      calendar.hold(data.appointment ? [data.appointment] : [], null);
      return false;
    }
    const bounds = [input?.startDate, input?.endDate];
    const [from, to] = bounds.map((bound) => calendar.dayOf(bound));
    calendar.hold(data.appointments, { from, to });
    calendar.more = data.nextCursor ? { ...input, userId: calendar.user, cursor: data.nextCursor } : null;
    calendar.isPartial = bounds.some((bound) => bound && !clock.isDay(bound));
    return true;
  },

  /** The day of a bound of a search, which may be a day or a time. */
  dayOf(bound) {
    if (!bound) return null;
    if (clock.isDay(bound)) return bound;
    const instant = /(Z|[+-]\d{2}:?\d{2})$/i.test(bound) ? Date.parse(bound) : NaN;
    if (!Number.isNaN(instant)) return clock.at(instant, calendar.zone).day;
    return clock.isDay(bound.slice(0, 10)) ? bound.slice(0, 10) : null;
  },

  hold(appointments, span) {
    calendar.span = span;
    calendar.more = null;
    calendar.isPartial = false;
    calendar.appointments = appointments.map(calendar.placed).sort(calendar.byStart);
  },

  /** An appointment with its place on the calendar: its first and last day, and the minutes of them. */
  placed(appointment) {
    const [from, to] = [Date.parse(appointment.startsAt), Date.parse(appointment.endsAt)];
    const [start, end] = [clock.at(from, calendar.zone), clock.at(Math.max(from, to - 1), calendar.zone)];
    // A whole day is one everywhere, wherever its midnight is.
    const [first, last] = appointment.allDay
      ? [appointment.startDate ?? start.day, appointment.endDate ?? end.day]
      : [start.day, end.day];
    return { ...appointment, from, to, first, last, startMinutes: start.minutes, endMinutes: end.minutes + 1 };
  },

  byStart(a, b) {
    return a.first.localeCompare(b.first) || Number(b.allDay) - Number(a.allDay) || a.from - b.from || a.to - b.to;
  },

  /** Whether everything from a day to another is known. */
  knows(from, to = from) {
    const { span, more, isPartial } = calendar;
    return span !== null && !more && !isPartial && (span.from ?? from) <= from && (span.to ?? to) >= to;
  },

  find(id) {
    return calendar.appointments.find((appointment) => appointment.id === id);
  },

  // === Tools ===

  /** The answer to a search that is under way is not wanted any more. */
  forget() {
    calendar.searches += 1;
  },

  /** Asks for everything in a span, as far as some pages reach. */
  async search({ from, to }) {
    const args = { userId: calendar.user, timeZone: calendar.zone, limit: calendar.PAGE };
    if (from) args.startDate = from;
    if (to) args.endDate = to;
    const { appointments, more } = await calendar.pages(args);
    calendar.hold(appointments, { from, to });
    calendar.more = more;
  },

  /** Asks for what the search before left out. */
  async searchOn() {
    const { appointments, more } = await calendar.pages(calendar.more);
    const { span, isPartial } = calendar;
    calendar.hold([...calendar.appointments, ...appointments], span);
    Object.assign(calendar, { more, isPartial });
  },

  async pages(args) {
    const { searches } = calendar;
    const appointments = [];
    let more = args;
    for (let page = 0; more && page < calendar.PAGES; page += 1) {
      const data = await calendar.call('search_appointments', more);
      if (searches !== calendar.searches) throw new ToolFailure('Something else has been asked for.');
      appointments.push(...(data.appointments ?? []));
      more = data.nextCursor ? { ...args, cursor: data.nextCursor } : null;
    }
    return { appointments, more };
  },

  /** Books, moves or cancels, and resolves to the appointment as it is then. */
  async change(tool, args) {
    const wish = { userId: calendar.user, ...args };
    const asked = JSON.stringify([tool, wish]);
    // Asking again for what may have happened already must carry the same key; anything else a new one. Without
    // `randomUUID` (the page is not secure) the server still tells a repeated wish by its words.
    const key = calendar.lost?.asked === asked ? calendar.lost.key : crypto.randomUUID?.();
    calendar.lost = { asked, key };
    try {
      const { appointment } = await calendar.call(tool, wish, key && { 'mcp-server/idempotencyKey': key });
      calendar.lost = null;
      calendar.put(appointment);
      return calendar.placed(appointment);
    } catch (error) {
      if (!(error instanceof NoAnswer)) calendar.lost = null;
      throw error;
    }
  },

  put(appointment) {
    const others = calendar.appointments.filter(({ id }) => id !== appointment.id);
    calendar.appointments = [...others, calendar.placed(appointment)].sort(calendar.byStart);
  },

  async call(tool, args, meta) {
    if (!calendar.user) throw new ToolFailure('The host has not said whose appointments these are.');
    let result;
    try {
      result = await calendar.host.callTool(tool, args, meta);
    } catch (error) {
      throw new NoAnswer(`There was no answer: ${error?.message || error}.`);
    }
    const words = (result?.content ?? []).filter(({ type }) => type === 'text').map(({ text }) => text).join('\n');
    if (result?.isError) throw new ToolFailure(words || 'The server could not do this.');
    const data = result?.structuredContent?.data;
    if (!data) throw new ToolFailure(words || 'The server answered with nothing that could be drawn.');
    return data;
  },
};
