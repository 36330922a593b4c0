//! The page's content security policy: it names the hashes of the one sheet and the one script that are in the page, so that nothing
//! else runs or styles, whatever a word in it turns out to be.
//!
//! What must stay true: no element has a `style` attribute, which a hash cannot allow. [`sheet`] moves each into the sheet.

use std::{collections::HashMap, fmt::Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// The attribute as this page writes it. Text from outside has no quotation marks once it is escaped, in markup and in JSON.
const ATTRIBUTE: &str = " style=\"";

/// Returns markup without `style` attributes, and the rules that say the same. Equal declarations share one rule; each element names
/// its rule in `data-s`. They are important, because an attribute goes before every selector.
pub(super) fn sheet(markup: &str) -> (String, String) {
    let (mut without, mut rules) = (String::with_capacity(markup.len()), String::new());
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut rest = markup;
    while let Some((before, after)) = rest.split_once(ATTRIBUTE) {
        let (declarations, after) = after.split_once('"').unwrap_or((after, ""));
        let next = known.len();
        let number = *known.entry(declarations).or_insert_with(|| {
            let important: Vec<_> = declarations.split(';').map(|declaration| format!("{declaration}!important")).collect();
            let _ = writeln!(rules, "[data-s=\"{next}\"]{{{}}}", important.join(";"));
            next
        });
        let _ = write!(without, "{before} data-s=\"{number}\"");
        rest = after;
    }
    without.push_str(rest);
    (without, rules)
}

/// Returns the policy of a page with this sheet and this script.
pub(super) fn policy(sheet: &str, script: &str) -> String {
    format!("default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'", hash(sheet), hash(script))
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}
