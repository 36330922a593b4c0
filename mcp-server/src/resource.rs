//! Resources: what a client may read by address, either one address or a template that many addresses fit; and word of
//! their changes for those who subscribed.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc};

use rmcp::model::{ReadResourceResponse, ReadResourceResult, ResourceContents};
use tokio::sync::broadcast;

use crate::{error::ToolError, http::percent};

type Reading = Pin<Box<dyn Future<Output = Result<ReadResourceResponse, ToolError>> + Send>>;
type Reader = Arc<dyn Fn(Read) -> Reading + Send + Sync>;

/// A resource of an application.
#[derive(Clone)]
pub struct Resource {
    pub(crate) description: rmcp::model::Resource,
    pub(crate) reader: Reader,
}

/// Many resources of one form, such as `calendar://{user}/{day}`.
#[derive(Clone)]
pub struct ResourceTemplate {
    pub(crate) description: rmcp::model::ResourceTemplate,
    pub(crate) reader: Reader,
}

/// One `resources/read`.
#[derive(Clone, Debug)]
pub struct Read {
    /// The address that was asked for.
    pub uri: String,
    /// What stood in the place of the template's variables, percent-decoded. A value can hold a slash that way: `%2F`.
    pub variables: BTreeMap<String, String>,
}

/// Word of changed resources, for clients that subscribed to them. Give it to
/// [`App::subscriptions`](crate::App::subscriptions) and a clone of it to whatever changes a resource.
///
/// It reaches the clients of this process. What another process changed has to be heard of there, for instance through the
/// database that both stand on.
#[derive(Clone, Debug)]
pub struct Changes(broadcast::Sender<Arc<str>>);

/// How many changes may wait for a subscriber that is slow. One that falls behind further is told that everything it
/// subscribed to may have changed, which is true.
const CHANGES_WAITING: usize = 256;

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(CHANGES_WAITING))
    }
}

impl Changes {
    /// Nothing has changed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the resource at this address reads differently now.
    pub fn updated(&self, uri: &str) {
        // Refused when nobody listens.
        let _ = self.0.send(uri.into());
    }

    pub(crate) fn listen(&self) -> Listening {
        Listening(self.0.subscribe())
    }
}

/// One subscriber's ear.
pub(crate) struct Listening(broadcast::Receiver<Arc<str>>);

/// What a subscriber hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// This one changed.
    Updated(Arc<str>),
    /// Too much changed to say what.
    Much,
}

impl Listening {
    /// The next change. Nothing ever comes when nobody is left who could make one.
    pub(crate) async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Ok(uri) => Heard::Updated(uri),
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::Much,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Heard {
    /// Whether it concerns this address.
    pub(crate) fn concerns(&self, uri: &str) -> bool {
        match self {
            Self::Updated(updated) => **updated == *uri,
            Self::Much => true,
        }
    }
}

impl Resource {
    /// A resource at this address, read by an async function. `name` is for programs; add a title for people through
    /// [`Resource::described`].
    pub fn new<F, R, O>(uri: impl Into<String>, name: impl Into<String>, read: F) -> Self
    where
        F: Fn(Read) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, ToolError>> + Send + 'static,
        O: IntoContents,
    {
        Self { description: rmcp::model::Resource::new(uri, name), reader: reader(read) }
    }

    /// Changes what clients are told of it.
    #[must_use]
    pub fn described(mut self, change: impl FnOnce(&mut rmcp::model::Resource)) -> Self {
        change(&mut self.description);
        self
    }
}

impl ResourceTemplate {
    /// Resources of this form. Each `{variable}` stands for one or more characters without a slash.
    pub fn new<F, R, O>(template: impl Into<String>, name: impl Into<String>, read: F) -> Self
    where
        F: Fn(Read) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, ToolError>> + Send + 'static,
        O: IntoContents,
    {
        Self { description: rmcp::model::ResourceTemplate::new(template, name), reader: reader(read) }
    }

    /// Changes what clients are told of it.
    #[must_use]
    pub fn described(mut self, change: impl FnOnce(&mut rmcp::model::ResourceTemplate)) -> Self {
        change(&mut self.description);
        self
    }

    /// The variables of this address, when it is of this form.
    pub(crate) fn variables(&self, uri: &str) -> Option<BTreeMap<String, String>> {
        fit(&self.description.uri_template, uri)
    }
}

/// What reading a resource may give.
pub trait IntoContents {
    /// The protocol's answer.
    fn into_contents(self) -> ReadResourceResponse;
}

impl IntoContents for ResourceContents {
    fn into_contents(self) -> ReadResourceResponse {
        ReadResourceResult::new(vec![self]).into()
    }
}

impl IntoContents for ReadResourceResult {
    fn into_contents(self) -> ReadResourceResponse {
        self.into()
    }
}

impl IntoContents for ReadResourceResponse {
    fn into_contents(self) -> ReadResourceResponse {
        self
    }
}

fn reader<F, R, O>(read: F) -> Reader
where
    F: Fn(Read) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, ToolError>> + Send + 'static,
    O: IntoContents,
{
    Arc::new(move |request| {
        let reading = read(request);
        Box::pin(async move { reading.await.map(IntoContents::into_contents) })
    })
}

/// Matches an address against a template. The shortest text wins for each variable, and none holds a slash.
fn fit(template: &str, uri: &str) -> Option<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    let (mut template, mut uri) = (template, uri);
    while let Some((literal, rest)) = template.split_once('{') {
        uri = uri.strip_prefix(literal)?;
        let (name, after) = rest.split_once('}')?;
        let end = match after.split('{').next().unwrap_or_default() {
            "" => uri.find('/').unwrap_or(uri.len()),
            next => uri.find(next)?,
        };
        let value = &uri[..end];
        if value.is_empty() || value.contains('/') {
            return None;
        }
        // A value whose escapes are broken is taken as it stands. PostgreSQL stores no NUL, so no address has one.
        let value = percent::decode(value).unwrap_or_else(|| value.to_owned());
        if value.contains('\0') {
            return None;
        }
        variables.insert(name.to_owned(), value);
        (template, uri) = (after, &uri[end..]);
    }
    (uri == template).then_some(variables)
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resource").field(&self.description.uri).finish()
    }
}

impl fmt::Debug for ResourceTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResourceTemplate").field(&self.description.uri_template).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_subscriber_hears_that_much_has_changed() {
        let changes = Changes::new();
        let mut listening = changes.listen();
        changes.updated("test://a");
        let heard = listening.next().await;
        assert!(heard.concerns("test://a") && !heard.concerns("test://b"));
        for _ in 0..=CHANGES_WAITING {
            changes.updated("test://a");
        }
        let heard = listening.next().await;
        assert_eq!(heard, Heard::Much);
        assert!(heard.concerns("test://b"));
    }

    #[test]
    fn an_address_fits_its_template_and_no_other() {
        let fits = |template: &str, uri: &str| fit(template, uri).map(|found| found.into_values().collect::<Vec<_>>());
        assert_eq!(fits("test://template/{id}/data", "test://template/7/data").unwrap(), ["7"]);
        assert_eq!(fits("c://{day}/{user}", "c://mon/ann").unwrap(), ["mon", "ann"]);
        for (value, expected) in [
            ("a%20b", "a b"),
            ("a%2Fb%2fc", "a/b/c"),
            ("%C3%A4%E2%82%AC", "ä€"),
            ("100%25", "100%"),
            ("%2525", "%25"),
            ("a+b", "a+b"),
            ("%", "%"),
            ("%zz", "%zz"),
            ("%ff", "%ff"),
        ] {
            let uri = format!("test://template/{value}/data");
            assert_eq!(fits("test://template/{id}/data", &uri).unwrap(), [expected], "{value}");
        }
        for (template, uri) in [
            ("test://template/{id}/data", "test://template/a%00b/data"),
            ("test://template/{id}/data", "test://template//data"),
            ("test://template/{id}/data", "test://template/a/b/data"),
            ("test://template/{id}/data", "test://template/7/data/more"),
            ("test://template/{id}", "test://other/7"),
            ("c://{user}", "c://a/b"),
        ] {
            assert_eq!(fits(template, uri), None, "{template} {uri}");
        }
    }
}
