//! A client of one replica, as plain as clients are: JSON-RPC in, JSON out.

use std::time::{Duration, Instant};

use http::{Method, header};
use serde_json::{Value, json};

use crate::http::{Answer, Http, HttpError, request};

/// Asks one address.
#[derive(Clone, Debug)]
pub(super) struct Client<'a> {
    pub(super) http: &'a Http,
    /// `host:port`.
    pub(super) address: &'a str,
}

const WITHIN: Duration = Duration::from_secs(30);

// === impl Client ===

impl Client<'_> {
    /// Asks, and gives the result. An error is told in words.
    pub(super) async fn ask(&self, method: &str, params: &Value) -> Result<Value, String> {
        let answer = self.send(method, params, &[]).await.map_err(|failure| crate::chain(&failure))?;
        result(method, &answer)
    }

    /// Asks with further headers, and gives the whole answer.
    pub(super) async fn send(&self, method: &str, params: &Value, headers: &[(&str, &str)]) -> Result<Answer, HttpError> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut request = request(Method::POST, &format!("http://{}/mcp", self.address), Some(&body))?;
        let accept = http::HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, accept);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(*name), http::HeaderValue::try_from(*value)) {
                request.headers_mut().insert(name, value);
            }
        }
        self.http.ask(request, WITHIN).await
    }

    /// Every entry of a list, page by page.
    pub(super) async fn list(&self, method: &str, key: &str) -> Result<Vec<Value>, String> {
        let mut all = Vec::new();
        let mut params = json!({});
        loop {
            let page = self.ask(method, &params).await?;
            all.extend(page[key].as_array().cloned().unwrap_or_default());
            match page["nextCursor"].as_str() {
                Some(cursor) if all.len() < 10_000 => params = json!({ "cursor": cursor }),
                _ => return Ok(all),
            }
        }
    }

    /// Calls a tool, and gives its result and how long it took. A result that says it is an error is one.
    pub(super) async fn call(&self, tool: &str, arguments: &Value) -> Result<(Value, Duration), String> {
        let begun = Instant::now();
        let result = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments })).await?;
        let took = begun.elapsed();
        if result["isError"] == true {
            let text = result["content"][0]["text"].as_str().unwrap_or_default();
            return Err(format!("`{tool}` answers with an error: {text}"));
        }
        Ok((result, took))
    }
}

/// The result of an answer; an error of any kind is told in words.
pub(super) fn result(method: &str, answer: &Answer) -> Result<Value, String> {
    let text = answer.text();
    // A server may answer as a stream of one event.
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).find(|data| data.trim_start().starts_with('{'));
    let said: Value = serde_json::from_str(data.unwrap_or(&text)).unwrap_or_default();
    if let Some(result) = said.get("result") {
        return Ok(result.clone());
    }
    let words = said["error"]["message"].as_str().map_or_else(|| text.chars().take(120).collect(), str::to_owned);
    Err(format!("`{method}` is answered {}: {words}", answer.status.as_u16()))
}

/// Calls that do no harm: those that were named, else the first tool that only reads and can be called with what its schema
/// says, else none.
pub(super) fn probes(named: &[(String, Value)], tools: &[Value]) -> Vec<(String, Value)> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let reads = tools.iter().filter(|tool| tool["annotations"]["readOnlyHint"] == true);
    let probe = |tool: &Value| Some((tool["name"].as_str()?.to_owned(), arguments(&tool["inputSchema"])?));
    reads.filter_map(probe).take(1).collect()
}

/// Arguments for what a schema requires, where a word, a number or a day will do.
fn arguments(schema: &Value) -> Option<Value> {
    let mut arguments = serde_json::Map::new();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let property = &schema["properties"][name];
        let value = match (property["type"].as_str(), property["format"].as_str()) {
            _ if property["enum"][0].is_string() => property["enum"][0].clone(),
            (Some("string"), Some("date")) => json!("2026-12-25"),
            (Some("string"), Some("date-time")) => json!("2026-12-25T09:00:00Z"),
            (Some("string"), None) => json!("rollout-probe"),
            (Some("integer" | "number"), _) => property.get("minimum").cloned().unwrap_or_else(|| json!(1)),
            (Some("boolean"), _) => json!(false),
            _ => return None,
        };
        arguments.insert(name.to_owned(), value);
    }
    Some(Value::Object(arguments))
}
