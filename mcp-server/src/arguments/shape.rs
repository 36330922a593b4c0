//! What an input schema says of the arguments' names and types, taken apart once, at start.

use std::{cell::Cell, collections::HashMap, fmt, mem};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The members of an input schema, and of everything in it. A schema may contain itself, so places refer to each other by
/// their number; the first is the arguments as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    places: Vec<Place>,
}

/// One place in a schema, with its alternatives put together.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// In the order of their names.
    members: Vec<Member>,
    /// Whether a member that is not among these is unknown, rather than one of a map.
    is_closed: bool,
    /// Whether there is something in here that is closed.
    is_deep: bool,
    items: Option<usize>,
    /// What members are that have no name in the schema.
    others: Option<usize>,
    kinds: Vec<&'static str>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    /// The values that are allowed, when only a few are.
    values: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    place: usize,
    /// Whether it may be left out, and in which alternatives it is.
    is_optional: bool,
}

/// An argument whose name is almost one of the schema's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NearMiss {
    pub(super) given: String,
    pub(super) meant: String,
}

/// Alternatives are followed this deep; what refers to itself without end refers to nothing.
const DEEPEST: usize = 32;
/// Every integer up to here is a number of its own in a `double`, so `30.0` is 30 and nothing else.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
const KINDS: [&str; 7] = ["string", "integer", "number", "boolean", "object", "array", "null"];

// === impl Shape ===

impl Shape {
    /// The shape of a schema. The argument called `whose` may be left out where callers prove who they are, whatever the
    /// schema says.
    pub(crate) fn of(schema: &Map<String, Value>, whose: Option<&str>) -> Self {
        let root = Value::Object(schema.clone());
        let mut builder = Builder { root: &root, places: Vec::new(), known: HashMap::new() };
        builder.place(vec![&root]);
        let mut places = builder.places;
        // What an empty schema has no members of takes none.
        let takes_others = schema.contains_key("patternProperties")
            || schema.get("additionalProperties").is_some_and(|others| *others != Value::Bool(false));
        places[0].is_closed = !takes_others;
        for member in places[0].members.iter_mut().filter(|member| Some(&*member.name) == whose) {
            member.is_optional = true;
        }
        let mut shape = Self { places };
        for place in 0..shape.places.len() {
            shape.places[place].is_deep = shape.reaches_closed(place, &mut vec![false; shape.places.len()]);
        }
        shape
    }

    fn reaches_closed(&self, place: usize, seen: &mut [bool]) -> bool {
        if mem::replace(&mut seen[place], true) {
            return false;
        }
        let place = &self.places[place];
        let inner = place.members.iter().map(|member| member.place).chain(place.items).chain(place.others);
        place.is_closed || inner.into_iter().any(|inner| self.reaches_closed(inner, seen))
    }

    /// Whether every member is one that the schema names, and no text is empty: then there is nothing to look into.
    pub(crate) fn is_plain(&self, arguments: &str) -> bool {
        if self.places.is_empty() {
            return true;
        }
        if memchr::memmem::find(arguments.as_bytes(), b"\"\"").is_some() {
            return false;
        }
        let is_plain = Cell::new(true);
        let scan = Scan { shape: self, place: 0, is_plain: &is_plain };
        // What cannot be scanned cannot be read either, and is explained there.
        let scanned = scan.deserialize(&mut serde_json::Deserializer::from_str(arguments));
        scanned.is_ok() && is_plain.get()
    }

    /// Leaves out what is empty and may be left out, and writes `30.0` as 30 where an integer is wanted. Whether that changed
    /// anything.
    pub(super) fn normalize(&self, arguments: &mut Value) -> bool {
        self.rewrite(0, arguments, &|shape, place, value| match value {
            Value::String(text) if text.is_empty() => !shape.places[place].values.iter().any(|value| value == ""),
            _ => false,
        })
    }

    /// Leaves out what is `null` and may be left out. Whether there was any.
    pub(super) fn drop_nulls(&self, arguments: &mut Value) -> bool {
        self.rewrite(0, arguments, &|_, _, value| value.is_null())
    }

    fn rewrite(&self, place: usize, value: &mut Value, is_absent: &impl Fn(&Self, usize, &Value) -> bool) -> bool {
        let Some(here) = self.places.get(place) else { return false };
        let mut is_changed = false;
        match value {
            Value::Object(members) => {
                let before = members.len();
                members.retain(|name, value| {
                    let member = here.member(name).filter(|member| member.is_optional);
                    member.is_none_or(|member| !is_absent(self, member.place, value))
                });
                is_changed = members.len() != before;
                for (name, value) in members.iter_mut() {
                    if let Some(place) = here.member(name).map(|member| member.place).or(here.others) {
                        is_changed |= self.rewrite(place, value, is_absent);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(place) = here.items {
                    for item in items {
                        is_changed |= self.rewrite(place, item, is_absent);
                    }
                }
            }
            Value::Number(number) if here.is_integer() => {
                if let Some(integer) = number.as_f64().filter(|_| number.is_f64()).and_then(integral) {
                    *value = integer.into();
                    is_changed = true;
                }
            }
            _ => {}
        }
        is_changed
    }

    /// The arguments that are not in the schema, where it names them all.
    pub(super) fn undeclared<'a>(&'a self, arguments: &'a Value) -> impl Iterator<Item = String> + 'a {
        let place = self.places.first().filter(|place| place.is_closed);
        let members = arguments.as_object().filter(|_| place.is_some()).into_iter().flatten();
        members.map(|(name, _)| name).filter(move |name| place.is_some_and(|place| place.member(name).is_none())).cloned()
    }

    /// Which of these members, given as paths, are almost members that the schema has in the same place.
    pub(super) fn near_misses<'a>(&self, paths: impl Iterator<Item = &'a [String]>) -> Vec<NearMiss> {
        let near = |path: &'a [String]| {
            let (name, above) = path.split_last()?;
            let place = self.find(above.iter().map(String::as_str))?;
            let meant = place.members.iter().filter_map(|member| Some((distance(name, &member.name)?, &member.name)));
            let (_, meant) = meant.min()?;
            let given = super::mistake::path(path);
            let meant = [above, std::slice::from_ref(meant)].concat();
            Some(NearMiss { given, meant: super::mistake::path(&meant) })
        };
        paths.filter_map(near).collect()
    }

    /// The place that a path leads to.
    pub(super) fn find<'a>(&self, path: impl Iterator<Item = &'a str>) -> Option<&Place> {
        let mut here = self.places.first()?;
        for step in path {
            let next = match here.member(step) {
                Some(member) => member.place,
                None if here.items.is_some() && step.bytes().all(|byte| byte.is_ascii_digit()) => here.items?,
                None => here.others?,
            };
            here = &self.places[next];
        }
        Some(here)
    }
}

// === impl Place ===

impl Place {
    fn member(&self, name: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        Some(&self.members[at])
    }

    fn is_integer(&self) -> bool {
        self.kinds.contains(&"integer") && !self.kinds.contains(&"number")
    }

    /// What is wanted here, in the words of JSON.
    pub(super) fn expected(&self) -> Option<String> {
        // A value of one alternative says nothing of the others.
        if !self.values.is_empty() && self.values.len() <= 20 && self.kinds.len() < 2 {
            let values: Vec<_> = self.values.iter().map(|value| format!("`{}`", text(value))).collect();
            return Some(match &values[..] {
                [only] => only.clone(),
                _ => format!("one of {}", values.join(", ")),
            });
        }
        let with_article = |kind: &&str| match *kind {
            "integer" | "object" | "array" => format!("an {kind}"),
            "null" => "null".to_owned(),
            "boolean" => "true or false".to_owned(),
            _ => format!("a {kind}"),
        };
        let kinds: Vec<_> = self.kinds.iter().map(with_article).collect();
        (!kinds.is_empty()).then(|| kinds.join(" or "))
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Puts places together out of schemas.
struct Builder<'a> {
    root: &'a Value,
    places: Vec<Place>,
    /// By the schemas that hold there together.
    known: HashMap<Vec<*const Value>, usize>,
}

/// What the alternatives of one place say.
#[derive(Default)]
struct Draft<'a> {
    place: Place,
    members: Vec<(&'a str, Vec<&'a Value>)>,
    required: Vec<&'a str>,
    items: Vec<&'a Value>,
    others: Vec<&'a Value>,
    takes_others: bool,
}

// === impl Builder ===

impl<'a> Builder<'a> {
    fn place(&mut self, schemas: Vec<&'a Value>) -> usize {
        let key: Vec<_> = schemas.iter().map(|schema| std::ptr::from_ref(*schema)).collect();
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let at = self.places.len();
        self.known.insert(key, at);
        self.places.push(Place::default());
        let mut draft = Draft::default();
        for schema in schemas {
            self.add(&mut draft, schema, 0);
        }
        let Draft { mut place, members, required, items, others, takes_others } = draft;
        place.is_closed = !members.is_empty() && !takes_others;
        for (name, schemas) in members {
            let is_optional = !required.contains(&name);
            place.members.push(Member { name: name.to_owned(), place: self.place(schemas), is_optional });
        }
        place.members.sort_by(|a, b| a.name.cmp(&b.name));
        place.items = (!items.is_empty()).then(|| self.place(items));
        place.others = (!others.is_empty()).then(|| self.place(others));
        self.places[at] = place;
        at
    }

    fn add(&self, draft: &mut Draft<'a>, schema: &'a Value, depth: usize) {
        let Some(schema) = schema.as_object().filter(|_| depth < DEEPEST) else { return };
        if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'))
            && let Some(target) = self.root.pointer(target)
        {
            self.add(draft, target, depth + 1);
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for choice in schema.get(keyword).and_then(Value::as_array).into_iter().flatten() {
                self.add(draft, choice, depth + 1);
            }
        }
        let kinds = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.and_then(Value::as_str).into_iter().collect::<Vec<_>>(),
        };
        for kind in KINDS.into_iter().filter(|kind| kinds.contains(kind)) {
            if !draft.place.kinds.contains(&kind) {
                draft.place.kinds.push(kind);
            }
        }
        for (name, member) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            match draft.members.iter_mut().find(|(known, _)| known == name) {
                Some((_, schemas)) => schemas.push(member),
                None => draft.members.push((name, vec![member])),
            }
        }
        draft.required.extend(schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str));
        match schema.get("items") {
            Some(Value::Array(items)) => draft.items.extend(items),
            Some(items) => draft.items.push(items),
            None => {}
        }
        draft.items.extend(schema.get("prefixItems").and_then(Value::as_array).into_iter().flatten());
        match schema.get("additionalProperties") {
            None | Some(Value::Bool(false)) => {}
            Some(others) => {
                draft.takes_others = true;
                draft.others.push(others);
            }
        }
        draft.takes_others |= schema.contains_key("patternProperties");
        draft.place.values.extend(schema.get("enum").and_then(Value::as_array).into_iter().flatten().cloned());
        draft.place.values.extend(schema.get("const").cloned());
        let limit = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
        draft.place.minimum = limit("minimum").or(draft.place.minimum);
        draft.place.maximum = limit("maximum").or(draft.place.maximum);
    }
}

/// Looks for members that the schema does not name. It allocates nothing but what an escaped name takes.
struct Scan<'a> {
    shape: &'a Shape,
    place: usize,
    is_plain: &'a Cell<bool>,
}

/// A member's number in its place.
struct Named<'a>(&'a [Member]);

// === impl Scan ===

impl<'a> Scan<'a> {
    fn at(&self, place: usize) -> Self {
        Self { shape: self.shape, place, is_plain: self.is_plain }
    }

    fn place(&self) -> &'a Place {
        &self.shape.places[self.place]
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.place().is_deep { deserializer.deserialize_any(self) } else { IgnoredAny::deserialize(deserializer).map(drop) }
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let place = self.place();
        while let Some(found) = map.next_key_seed(Named(&place.members))? {
            let inner = found.map(|member| place.members[member].place).or(place.others);
            if found.is_none() && place.is_closed {
                self.is_plain.set(false);
            }
            match inner {
                Some(inner) => map.next_value_seed(self.at(inner))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match self.place().items {
            Some(items) => while seq.next_element_seed(self.at(items))?.is_some() {},
            None => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.binary_search_by(|member| (*member.name).cmp(name)).ok())
    }
}

/// The steps to a member that serde ignored. `None` when the way leads through an alternative, whose name serde does not say.
pub(super) fn steps(path: &serde_ignored::Path<'_>) -> Option<Vec<String>> {
    use serde_ignored::Path;
    let (mut steps, last) = match path {
        Path::Root => return Some(Vec::new()),
        Path::Seq { parent, index } => (self::steps(parent)?, index.to_string()),
        Path::Map { parent, key } => (self::steps(parent)?, key.clone()),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => return self::steps(parent),
    };
    steps.push(last);
    Some(steps)
}

/// The integer that a number is, when it is one.
fn integral(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the integers that a double holds exactly")]
    (number.fract() == 0.0 && number.abs() <= LARGEST_EXACT).then_some(number as i64)
}

/// How far a name that was given is from one that is known, when it is near enough to be meant: the same but for case, hyphens
/// and underscores; the plural; or a slip of the finger, of which a longer name may have two.
fn distance(given: &str, known: &str) -> Option<usize> {
    let [given, known] = [given, known]
        .map(|name| name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect::<Vec<_>>());
    if given == known {
        return Some(0);
    }
    let is_plural = |one: &[char], many: &[char]| {
        many.strip_prefix(one).is_some_and(|ending| matches!(ending, ['s'] | ['e', 's']))
            || matches!((one, many), ([start @ .., 'y'], [begin @ .., 'i', 'e', 's']) if start == begin && !start.is_empty())
    };
    if is_plural(&given, &known) || is_plural(&known, &given) {
        return Some(1);
    }
    let shorter = given.len().min(known.len());
    let allowed = match shorter {
        0..=2 => return None,
        // A letter more or less makes another word of a short one, two that changed places do not.
        3 | 4 => return (given.len() == known.len() && slips(&given, &known, 1)? == 1 && is_swap(&given, &known)).then_some(1),
        5..=7 => 1,
        _ => 2,
    };
    slips(&given, &known, allowed)
}

fn is_swap(one: &[char], other: &[char]) -> bool {
    let [mut one, mut other] = [one.to_vec(), other.to_vec()];
    one.sort_unstable();
    other.sort_unstable();
    one == other
}

/// Letters added, left out, replaced, or swapped with their neighbor (Damerau and Levenshtein), up to `most`.
fn slips(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most || one.len().max(other.len()) > 100 {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, theirs) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != theirs);
            let mut best = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            if row > 0 && column > 0 && *letter == other[column - 1] && one[row - 1] == *theirs {
                best = best.min(before[column - 1] + 1);
            }
            next.push(best);
        }
        before = mem::replace(&mut last, next);
    }
    last.last().copied().filter(|slips| *slips <= most)
}
