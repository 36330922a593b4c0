//! The contract: what the new build promises against what clients hold, as both colors' replicas say it themselves, and as
//! the builds that were named said it when they ran.
//!
//! What clients of the live build would miss stops a promotion. What those who came in between would miss after going back
//! is said, and stops nothing: whatever is added is missing then.

use std::collections::BTreeMap;

use bg_runtime::{
    contract::{Change, Contract, Effect, is_breaking},
    database::{Json, Type},
};
use serde_json::{Value, json};

use super::{Context, Finding, either, mcp::Client};

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    either(compare(context).await)
}

async fn compare(context: &Context<'_>) -> Result<Finding, Finding> {
    let seen = context.observe().await?;
    let replica = |color| seen.slot(color).in_service().next();
    let Some(new) = replica(context.color) else {
        return Err(Finding::failed(format!("no replica of {} is ready", context.color)));
    };
    let new_client = Client { http: context.http, address: &new.address };
    let served = promised(&new_client).await.map_err(|words| Finding::failed(format!("{}: {words}", context.color)))?;
    let mut held = published(context).await?;
    if let Some(live) = replica(context.color.other()) {
        let client = Client { http: context.http, address: &live.address };
        let name = live.build.clone().unwrap_or_else(|| live.name.clone());
        let contract = promised(&client).await.map_err(|words| Finding::failed(format!("{}: {words}", context.color.other())))?;
        held.push((name, contract));
    }
    if held.is_empty() {
        return Ok(Finding::passed("nobody is live and no build was named: clients hold nothing"));
    }
    let mut readable = BTreeMap::new();
    for address in held.iter().flat_map(|(_, contract)| contract.widgets.keys()) {
        let read = new_client.ask("resources/read", &json!({ "uri": address })).await.is_ok();
        readable.insert(address.clone(), read);
    }
    let mut finding = Finding::passed("");
    let (mut breaking, mut additive) = (Vec::new(), 0);
    for (name, contract) in &held {
        let forward = contract.compare(&served, |address| readable.get(address).copied().unwrap_or(false));
        let back = served.compare(contract, |_| true);
        additive += forward.iter().filter(|change| change.effect == Effect::Additive).count();
        finding = told(finding, &format!("clients of {name} meet"), &forward);
        if is_breaking(&back) {
            finding = told(finding, &format!("after going back to {name} they would meet"), &back);
        }
        let broken = forward.into_iter().filter(|change| change.effect == Effect::Breaking);
        breaking.extend(broken.map(|change| format!("{}: {}", change.subject, change.words)));
    }
    let against: Vec<_> = held.iter().map(|(name, _)| name.as_str()).collect();
    if let [first, rest @ ..] = &breaking[..] {
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        finding.passed = false;
        finding.words = format!("clients of {} would break: {first}{more}", against.join(", "));
        return Err(finding);
    }
    finding.words = format!("nothing breaks for clients of {}; {additive} additions", against.join(", "));
    Ok(finding)
}

fn told(mut finding: Finding, label: &str, changes: &[Change]) -> Finding {
    for change in changes {
        finding = finding.with(label, change.to_string());
    }
    finding
}

/// The contracts of the builds that were named, as they were kept.
async fn published(context: &Context<'_>) -> Result<Vec<(String, Contract)>, Finding> {
    let mut found = Vec::new();
    for build in &context.limits.published {
        let Some(journal) = context.journal else {
            return Err(Finding::failed("kept contracts are in the database, and there is none"));
        };
        let read = async {
            let connection = journal.database().get().await?;
            connection.query_opt("SELECT contract FROM mcp_contracts WHERE build = $1", &[(build, Type::TEXT)]).await
        };
        let row = read.await.map_err(|failure| Finding::failed(crate::chain(&failure)))?;
        let contract = row.and_then(|row| row.try_get::<_, Json<Contract>>(0).ok());
        let Some(Json(contract)) = contract else {
            return Err(Finding::failed(format!("no contract of {build} is kept: `mcp-server contract list` has them")));
        };
        // Kept contracts also say what is not in any list.
        found.push((build.clone(), Contract { protocol_versions: Vec::new(), ..contract }));
    }
    Ok(found)
}

/// What a replica's lists say.
async fn promised(client: &Client<'_>) -> Result<Contract, String> {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "rollout", "version": "1" } });
    let hello = client.ask("initialize", &params).await?;
    let capabilities = hello["capabilities"].clone();
    let has = |name: &str| capabilities.get(name).is_some();
    let keyed = |list: Vec<Value>, key: &str| -> BTreeMap<String, Value> {
        list.into_iter().filter_map(|entry| Some((entry[key].as_str()?.to_owned(), entry))).collect()
    };
    let tools = if has("tools") { client.list("tools/list", "tools").await? } else { Vec::new() };
    let (resources, templates) = if has("resources") {
        (client.list("resources/list", "resources").await?, client.list("resources/templates/list", "resourceTemplates").await?)
    } else {
        (Vec::new(), Vec::new())
    };
    let prompts = if has("prompts") { client.list("prompts/list", "prompts").await? } else { Vec::new() };
    let is_widget = |resource: &Value| resource["uri"].as_str().is_some_and(|address| address.starts_with("ui://"));
    let (widgets, resources) = resources.into_iter().partition(is_widget);
    Ok(Contract {
        protocol_versions: Vec::new(),
        instructions: hello["instructions"].as_str().map(str::to_owned),
        capabilities,
        tools: keyed(tools, "name"),
        widgets: keyed(widgets, "uri"),
        resources: keyed(resources, "uri"),
        resource_templates: keyed(templates, "uriTemplate"),
        prompts: keyed(prompts, "name"),
    })
}
