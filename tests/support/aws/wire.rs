//! How AWS's services are spoken to: which one a request means, its parameters in and out of both protocols, and the XML of
//! the older one as JSON. Enough for a test double, and no more.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::{net::TcpListener, task::JoinSet};

/// A request to one of AWS's services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// The service, as signatures call it: `ecs`, `elasticloadbalancing`.
    pub service: String,
    /// `DescribeRules`
    pub operation: String,
    /// Its parameters. Those of a query are text, all of them.
    pub parameters: Value,
}

/// The region of everything.
pub const REGION: &str = "eu-central-1";

/// Answers whatever comes in, for as long as it is not dropped. An error ends the connection.
pub async fn serve<S, A>(
    socket: TcpListener,
    state: Arc<S>,
    answer: impl Fn(Arc<S>, Request<Incoming>) -> A + Clone + Send + 'static,
) where
    S: Send + Sync + 'static,
    A: Future<Output = Result<Response<Full<Bytes>>, &'static str>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        let (state, answer) = (state.clone(), answer.clone());
        let service = hyper::service::service_fn(move |request| answer(state.clone(), request));
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

// === impl Call ===

impl Call {
    /// The call that a request makes; `None` when it makes none.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // `AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/ecs/aws4_request, …`
        let scope = text(header::AUTHORIZATION)?.split_once("Credential=")?.1;
        let service = scope.split('/').nth(3)?.to_owned();
        if let Some(target) = headers.get("x-amz-target") {
            let operation = target.to_str().ok()?.rsplit('.').next()?.to_owned();
            let parameters = serde_json::from_slice(body).ok()?;
            return Some(Self { service, operation, parameters });
        }
        let mut parameters = from_form(std::str::from_utf8(body).ok()?);
        let fields = parameters.as_object_mut()?;
        fields.remove("Version");
        let operation = fields.remove("Action")?.as_str()?.to_owned();
        Some(Self { service, operation, parameters })
    }

    /// The headers and the body of the request that makes it.
    pub fn write(&self) -> (Vec<(&'static str, String)>, String) {
        let credential = format!("test/20260101/{REGION}/{}/aws4_request", self.service);
        let signed = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0");
        let mut headers = vec![("authorization", signed)];
        let (kind, body) = match target(&self.service) {
            Some(target) => {
                headers.push(("x-amz-target", format!("{target}.{}", self.operation)));
                ("application/x-amz-json-1.1", self.parameters.to_string())
            }
            None => ("application/x-www-form-urlencoded", self.form()),
        };
        headers.push(("content-type", kind.to_owned()));
        (headers, body)
    }

    /// Whether its service speaks queries and XML, and not JSON.
    pub fn is_query(&self) -> bool {
        target(&self.service).is_none()
    }

    /// A parameter that is text.
    pub fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }

    fn form(&self) -> String {
        let version = match &*self.service {
            "ec2" => "2016-11-15",
            "monitoring" => "2010-08-01",
            _ => "2015-12-01",
        };
        let mut form = format!("Action={}&Version={version}", self.operation);
        flatten("", &self.parameters, &mut form);
        form
    }
}

/// What an XML document says, as JSON: an element that holds `member`s or `item`s is a list, one that holds others an object,
/// and any other one its text.
pub fn xml(text: &str) -> Value {
    let mut rest = text;
    element(&mut rest).map(|(_, value)| value).unwrap_or_default()
}

/// Text that may stand in XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The prefix of the operations of a service that speaks JSON.
fn target(service: &str) -> Option<&'static str> {
    match service {
        "ecs" => Some("AmazonEC2ContainerServiceV20141113"),
        "application-autoscaling" => Some("AnyScaleFrontendService"),
        "codepipeline" => Some("CodePipeline_20150709"),
        "logs" => Some("Logs_20140328"),
        _ => None,
    }
}

/// The next element: its name, and what it says.
fn element(rest: &mut &str) -> Option<(String, Value)> {
    loop {
        let start = rest.find('<')?;
        let end = start + rest[start..].find('>')?;
        let tag = &rest[start + 1..end];
        *rest = &rest[end + 1..];
        if tag.starts_with('?') || tag.starts_with('!') {
            continue;
        }
        let name = tag.split([' ', '/', '\n']).next()?.to_owned();
        let value = if tag.ends_with('/') { Value::String(String::new()) } else { content(rest)? };
        return Some((name, value));
    }
}

/// What stands between two tags. The closing one is read, too.
fn content(rest: &mut &str) -> Option<Value> {
    let mut children = Vec::new();
    loop {
        let start = rest.find('<')?;
        if rest[start..].starts_with("</") {
            let text = &rest[..start];
            let value = if children.is_empty() { Value::String(unescape(text)) } else { together(children) };
            *rest = &rest[start + rest[start..].find('>')? + 1..];
            return Some(value);
        }
        children.push(element(rest)?);
    }
}

fn together(children: Vec<(String, Value)>) -> Value {
    if children.iter().all(|(name, _)| name == "member" || name == "item") {
        return children.into_iter().map(|(_, value)| value).collect();
    }
    Value::Object(children.into_iter().collect())
}

fn unescape(text: &str) -> String {
    text.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

/// `{"Actions": [{"Type": "forward"}]}` is `&Actions.member.1.Type=forward`.
fn flatten(name: &str, value: &Value, form: &mut String) {
    let under = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&under(key), value, form)),
        Value::Array(items) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(at, value)| flatten(&under(&format!("member.{}", at + 1)), value, form));
        }
        Value::String(text) => form.push_str(&format!("&{name}={}", percent(text))),
        other => form.push_str(&format!("&{name}={other}")),
    }
}

fn from_form(body: &str) -> Value {
    let mut root = Tree::default();
    for (name, value) in body.split('&').filter_map(|pair| pair.split_once('=')) {
        let mut place = &mut root;
        for key in unpercent(name).split('.') {
            place = place.children.entry(key.parse().map_or(Key::Name(key.to_owned()), Key::Number)).or_default();
        }
        place.text = Some(unpercent(value));
    }
    root.json()
}

/// A query while it is read.
#[derive(Debug, Default)]
struct Tree {
    text: Option<String>,
    children: BTreeMap<Key, Tree>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u32),
    Name(String),
}

// === impl Tree ===

impl Tree {
    fn json(self) -> Value {
        if let Some(text) = self.text {
            return Value::String(text);
        }
        let mut fields = Map::new();
        let mut list = Vec::new();
        for (key, tree) in self.children {
            match key {
                Key::Number(_) => list.push(tree.json()),
                // What it holds is a list.
                Key::Name(name) if name == "member" => return tree.json(),
                Key::Name(name) => drop(fields.insert(name, tree.json())),
            }
        }
        if list.is_empty() { Value::Object(fields) } else { Value::Array(list) }
    }
}

fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn unpercent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = (*first == b'%').then(|| more.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_that_was_written_is_read_as_it_was() {
        let parameters = json!({
            "RuleArn": "arn:aws:x/1",
            "Actions": [{ "Type": "forward", "ForwardConfig": { "TargetGroups": [{ "Weight": "1" }, { "Weight": "99" }] } }],
            "Tags": [{ "Key": "a b", "Value": "ü&=+%" }],
        });
        for service in ["elasticloadbalancing", "ecs"] {
            let call = Call { service: service.to_owned(), operation: "ModifyRule".to_owned(), parameters: parameters.clone() };
            let (headers, body) = call.write();
            let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(Call::read(&headers, body.as_bytes()), Some(call), "{body}");
        }
    }

    #[test]
    fn xml_is_read_as_what_it_means() {
        let text = "<?xml version=\"1.0\"?>\n<A xmlns=\"x\"><R><Rules><member><P>1</P><C/></member>\n <member><P>a &amp; b</P></member>\
                    </Rules><None></None></R></A>";
        assert_eq!(xml(text), json!({ "R": { "Rules": [{ "P": "1", "C": "" }, { "P": "a & b" }], "None": "" } }));
    }
}
