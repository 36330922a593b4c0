//! A widget: a document, where a host finds it, and what a host must be told of it.
//!
//! What must stay true: an address means one document for ever. A host keeps what it has read, and a conversation from last week
//! asks for the address of last week; so the address carries a hash of what is behind it, and changes when that does.

use sha2::{Digest, Sha256};

use crate::document;

/// How a host of MCP Apps knows a widget.
pub const MCP_APP: &str = "text/html;profile=mcp-app";

/// How a host that offers `window.openai` knows one.
pub const SKYBRIDGE: &str = "text/html+skybridge";

/// A document that a host draws beside what a tool has answered.
///
/// Its fields are read; the methods of the same names set them, and can do so in a `const` or a `static`:
///
/// ```
/// use widgets::Widget;
///
/// static CLOCK: Widget = Widget::new("clock", "<!doctype html><title>Clock</title><time>12:00</time>").title("Clock");
///
/// assert_eq!(CLOCK.title, Some("Clock"));
/// assert!(CLOCK.address().starts_with("ui://widgets/clock/"));
/// assert_eq!(CLOCK.mistakes(), Vec::<String>::new());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Widget {
    /// What the address calls it: small letters, digits and hyphens.
    pub name: &'static str,
    /// The whole document, styles and scripts included.
    pub html: &'static str,
    /// What people call it.
    pub title: Option<&'static str>,
    /// What a model is told that the user sees, so that it does not say it again.
    pub description: Option<&'static str>,
    /// Whom it may speak to beside its host.
    pub csp: Csp,
    /// An origin of its own, `https://widgets.example.com`, where others must know it by its origin. Without one the host picks.
    pub domain: Option<&'static str>,
    /// Whether the host draws a border around it. Without a word the host decides.
    pub prefers_border: Option<bool>,
}

/// Whom a widget may speak to, as origins: `https://api.example.com`, or `https://*.example.com`. Nobody, unless it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Csp {
    /// To fetch from, or to keep a socket open to (`wss:`).
    pub connect_domains: &'static [&'static str],
    /// To load images, styles, scripts, fonts and media from.
    pub resource_domains: &'static [&'static str],
    /// To show in a frame.
    pub frame_domains: &'static [&'static str],
    /// To open without the host asking its user first. Only ChatGPT knows of these.
    pub redirect_domains: &'static [&'static str],
}

/// Addresses appear in metadata that models and people read; a name that fills a line does not belong there.
const LONGEST_NAME: usize = 64;

// === impl Widget ===

impl Widget {
    /// A widget of this name that draws this document, and speaks to nobody but its host.
    pub const fn new(name: &'static str, html: &'static str) -> Self {
        Self { name, html, title: None, description: None, csp: Csp::NOBODY, domain: None, prefers_border: None }
    }

    /// Sets what people call it.
    #[must_use]
    pub const fn title(mut self, title: &'static str) -> Self {
        self.title = Some(title);
        self
    }

    /// Sets what a model is told that the user sees (`openai/widgetDescription`).
    #[must_use]
    pub const fn description(mut self, description: &'static str) -> Self {
        self.description = Some(description);
        self
    }

    /// Sets whom it may speak to.
    #[must_use]
    pub const fn csp(mut self, csp: Csp) -> Self {
        self.csp = csp;
        self
    }

    /// Sets its origin: `https://` and a host name.
    #[must_use]
    pub const fn domain(mut self, domain: &'static str) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Sets whether the host draws a border around it.
    #[must_use]
    pub const fn prefers_border(mut self, prefers_border: bool) -> Self {
        self.prefers_border = Some(prefers_border);
        self
    }

    /// The first 16 hexadecimal digits of SHA-256 over what a host keeps under an address: the document, and what confines it
    /// if it says so ([`csp`](Self::csp), [`domain`](Self::domain)). Computed each time; ask once.
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new_with_prefix(self.html);
        let domain = self.domain.as_slice();
        for (key, values) in self.csp.lists().into_iter().chain([("domain", domain)]).filter(|(_, values)| !values.is_empty()) {
            // NUL is in no document and in no origin, so that no two widgets look alike.
            digest.update(format!("\0{key}\0{}", values.join("\0")));
        }
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where a host of MCP Apps finds it.
    pub fn address(&self) -> String {
        format!("ui://widgets/{}/{}.html", self.name, self.hash())
    }

    /// Where a host that offers `window.openai` finds it.
    pub fn skybridge_address(&self) -> String {
        format!("ui://widgets/{}/{}.skybridge.html", self.name, self.hash())
    }

    /// What is wrong with it, in phrases to show to its author. None of it shows before a host refuses to draw it.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = self.name.starts_with(|first: char| first.is_ascii_lowercase()) && self.name.bytes().all(is_letter);
        if !is_name || self.name.len() > LONGEST_NAME {
            mistakes.push(format!(
                "its name is not a letter followed by small letters, digits and hyphens, {LONGEST_NAME} at most: {:?}",
                self.name
            ));
        }
        for (field, text) in [("title", self.title), ("description", self.description)] {
            if text.is_some_and(|text| text.trim().is_empty()) {
                mistakes.push(format!("its {field} is empty"));
            }
        }
        if let Some(domain) = self.domain
            && !is_origin(domain, &["https://"], false)
        {
            mistakes.push(format!("its domain is not an https origin, such as https://widgets.example.com: {domain:?}"));
        }
        for (list, domains) in self.csp.lists() {
            let schemes: &[&str] = if list == "connect_domains" { &["https://", "wss://"] } else { &["https://"] };
            for domain in domains.iter().filter(|domain| !is_origin(domain, schemes, true)) {
                mistakes.push(format!("{list} has what is not an origin, such as https://api.example.com: {domain:?}"));
            }
        }
        mistakes.extend(document::mistakes(self.html, &[self.csp.resource_domains, self.csp.frame_domains].concat()));
        mistakes
    }
}

// === impl Csp ===

impl Csp {
    /// Nobody but the host. `Csp { connect_domains: &["https://api.example.com"], ..Csp::NOBODY }` names one.
    pub const NOBODY: Self = Self { connect_domains: &[], resource_domains: &[], frame_domains: &[], redirect_domains: &[] };

    fn lists(&self) -> [(&'static str, &[&'static str]); 4] {
        [
            ("connect_domains", self.connect_domains),
            ("resource_domains", self.resource_domains),
            ("frame_domains", self.frame_domains),
            ("redirect_domains", self.redirect_domains),
        ]
    }
}

/// Whether a text is a scheme, a host name and perhaps a port, and nothing after it. Hosts compare them letter by letter.
fn is_origin(text: &str, schemes: &[&str], may_be_many: bool) -> bool {
    let Some(authority) = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
        return false;
    };
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let host = if may_be_many { host.strip_prefix("*.").unwrap_or(host) } else { host };
    let is_label = |label: &str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_letter)
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Widget = Widget::new("hello", "<!doctype html><title>Hello</title><p>Hello</p>");

    #[test]
    fn an_address_means_one_document_for_ever() {
        // What is published under these addresses is read in conversations of today. They do not change with a refactoring.
        assert_eq!(HELLO.address(), "ui://widgets/hello/fe0f85e2f9a3ee35.html");
        assert_eq!(HELLO.skybridge_address(), "ui://widgets/hello/fe0f85e2f9a3ee35.skybridge.html");
        assert_eq!(HELLO.title("Hi").description("A greeting.").prefers_border(true).address(), HELLO.address());
    }

    #[test]
    fn an_address_changes_with_what_a_host_keeps_under_it() {
        let origins: &[&str] = &["https://example.com"];
        let mut addresses = vec![
            HELLO.address(),
            Widget::new("hello", "<!doctype html><title>Hello</title><p>Hello!</p>").address(),
            Widget::new("hi", HELLO.html).address(),
            HELLO.domain("https://example.com").address(),
            HELLO.csp(Csp { connect_domains: origins, ..Csp::NOBODY }).address(),
            HELLO.csp(Csp { resource_domains: origins, ..Csp::NOBODY }).address(),
        ];
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 6);
    }

    #[test]
    fn a_sound_widget_has_no_mistakes() {
        let csp = Csp {
            connect_domains: &["https://api.example.com", "wss://live.example.com:8443"],
            resource_domains: &["https://*.example.com"],
            ..Csp::NOBODY
        };
        let widget = HELLO.title("Hello").description("A greeting.").domain("https://widgets.example.com").csp(csp);
        assert_eq!(widget.mistakes(), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_told() {
        let csp =
            Csp { connect_domains: &["https://example.com/api", "*"], frame_domains: &["wss://example.com"], ..Csp::NOBODY };
        let widget = Widget::new("Über/uns", "").title(" ").description("").domain("https://*.example.com/").csp(csp);
        assert_eq!(
            widget.mistakes(),
            [
                "its name is not a letter followed by small letters, digits and hyphens, 64 at most: \"Über/uns\"",
                "its title is empty",
                "its description is empty",
                "its domain is not an https origin, such as https://widgets.example.com: \"https://*.example.com/\"",
                "connect_domains has what is not an origin, such as https://api.example.com: \"https://example.com/api\"",
                "connect_domains has what is not an origin, such as https://api.example.com: \"*\"",
                "frame_domains has what is not an origin, such as https://api.example.com: \"wss://example.com\"",
                "its document is empty",
            ]
        );
    }
}
