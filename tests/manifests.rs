//! The manifests of Kubernetes say what the code says: names, ports, variables, metrics, and deadlines that form one chain.
//! They are read as `kubectl kustomize` renders them; no cluster is asked.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const APP: &str = "app.kubernetes.io/name";
const PLACES: [(&str, &str); 4] = [("production", "blue"), ("production", "green"), ("minimal", "blue"), ("minimal", "green")];

#[test]
fn names_and_ports_are_those_that_a_rollout_looks_for() {
    for (folder, color) in PLACES {
        let all = rendered(folder);
        let (live, preview) = (one(&all, "Service", "mcp-server"), one(&all, "Service", "mcp-server-preview"));
        assert_eq!(live["spec"]["selector"], json!({ APP: "mcp-server", "release-color": "blue" }), "{folder}");
        assert_eq!(preview["spec"]["selector"], json!({ APP: "mcp-server", "release-color": "green" }), "{folder}");
        assert_eq!(live["spec"]["ports"], json!([{ "name": "http", "port": 80, "targetPort": "http" }]), "{folder}");
        let (deployment, service) = (deployment(&all, color), one(&all, "Service", &format!("mcp-server-{color}")));
        let selector = json!({ APP: "mcp-server", "release-color": color });
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector, "{folder}");
        assert_eq!(service["spec"]["selector"], selector, "{folder}");
        for object in [&deployment["metadata"], &deployment["spec"]["template"]["metadata"], &service["metadata"]] {
            assert_eq!([&object["labels"][APP], &object["labels"]["release-color"]], ["mcp-server", color], "{folder}");
        }
        for spread in list(&deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]) {
            assert_eq!(spread["labelSelector"]["matchLabels"], selector, "{folder}: {color} does not spread alone");
        }
        let ports = json!([{ "name": "http", "containerPort": 3000 }, { "name": "operations", "containerPort": 9464 }]);
        assert_eq!(container(deployment)["ports"], ports, "{folder}");
        let ports = list(&service["spec"]["ports"]).iter().map(|port| (&port["targetPort"], &port["port"]));
        assert_eq!(ports.collect::<Vec<_>>(), [(&json!("http"), &json!(3000)), (&json!("operations"), &json!(9464))]);
    }
}

#[test]
fn a_rollout_may_change_what_it_has_to_and_nothing_else() {
    for folder in ["production", "minimal"] {
        let all = rendered(folder);
        let changes: Vec<_> = all
            .iter()
            .filter(|object| object["kind"] == "Role" && name(object).starts_with("rollout"))
            .flat_map(|role| list(&role["rules"]))
            .filter(|rule| list(&rule["verbs"]).contains(&json!("patch")) && rule["resources"] != json!(["events"]))
            .flat_map(|rule| list(&rule["resourceNames"]))
            .collect();
        // By the names that the objects have once they are rendered.
        for wanted in ["mcp-server-blue", "mcp-server-green", "mcp-server", "mcp-server-preview"] {
            assert!(changes.contains(&&json!(wanted)), "{folder}: {wanted} cannot be changed, only {changes:?}");
        }
        for changed in changes {
            assert!(all.iter().any(|object| object["metadata"]["name"] == *changed), "{folder}: there is no {changed}");
        }
    }
}

#[test]
fn every_variable_is_one_that_the_server_reads() {
    let (config, jobs) = (text("mcp-server/src/config.rs"), rendered("../jobs"));
    let job = variables(&jobs, one(&jobs, "Job", "mcp-server-migrate"));
    for (folder, color) in PLACES {
        let all = rendered(folder);
        let given = variables(&all, deployment(&all, color));
        for name in given.keys().chain(job.keys()) {
            // A name that another variable refers to is Kubernetes' to read.
            let referred = given.values().any(|value| value.contains(&format!("$({name})")));
            assert!(referred || config.contains(&format!("\"{name}\"")), "{folder}: nobody reads {name}");
        }
        let expected = "LISTEN=0.0.0.0:3000 OPERATIONS_LISTEN=0.0.0.0:9464 MIGRATE=off POD_IP=status.podIP \
            ADVERTISE_ADDRESS=$(POD_IP):3000 RELEASE_COLOR=metadata.labels['release-color'] DATABASE_URL=mcp-server-database";
        let chosen = if folder == "minimal" { ["none", "none"] } else { ["", "choose"] };
        assert_eq!(["AUTHENTICATION", "TRUSTED_PROXIES"].map(|name| given[name].as_str()), chosen, "{folder}");
        for (name, value) in expected.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            assert_eq!(given.get(name).map(String::as_str), Some(value), "{folder}: {name}");
        }
        let hosts: Vec<_> = given["ALLOWED_HOSTS"].split(',').collect();
        for service in all.iter().filter(|object| object["kind"] == "Service").map(name) {
            let names = ["", ".mcp", ".mcp.svc", ".mcp.svc.cluster.local"].map(|domain| format!("{service}{domain}"));
            assert!(names.iter().all(|name| hosts.contains(&name.as_str())), "{folder}: callers of {service} are refused");
        }
    }
}

/// The files that are for trying say so in their own words; everything else leaves the choice to whoever runs it.
#[test]
fn only_the_overlay_for_trying_lets_everybody_call() {
    let base = rendered("../base");
    let base = base.iter().filter(|object| object["kind"] == "ConfigMap");
    for data in base.map(|config| config["data"].as_object().expect("data")) {
        for choice in ["AUTHENTICATION", "TRUSTED_PROXIES"] {
            assert!(!data.contains_key(choice), "the base makes the choice of {choice}");
        }
    }
    let shipped = ["k8s", "terraform", "compose.yaml", "Dockerfile", "mcp-server/Cargo.toml"];
    let listed = Command::new("git").args(["-C", ROOT, "ls-files", "-co", "--exclude-standard", "--"]).args(shipped).output();
    let listed = String::from_utf8(listed.expect("git lists the files").stdout).expect("paths are text");
    let mut choose_none = Vec::new();
    for file in listed.lines().filter(|file| !file.ends_with(".md") && !file.contains("/tests/")) {
        let Ok(text) = fs::read_to_string(format!("{ROOT}/{file}")) else { continue };
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let says_none = |line: &str| {
            let line = line.to_lowercase().replace(['"', '\'', ' '], "");
            ["authentication=none", "authentication:none", "authentication:-none"].iter().any(|none| line.contains(none))
                || line.contains("name:authentication") && line.contains("value:none")
        };
        if lines.clone().any(says_none) {
            choose_none.push(file.to_owned());
        }
    }
    assert_eq!(choose_none, ["k8s/overlays/minimal/choices.env"]);
    // Compose starts nothing without a choice, and Terraform plans nothing without one.
    assert!(text("compose.yaml").contains("AUTHENTICATION: \"${AUTHENTICATION:?"), "Compose has a default");
    for file in ["terraform/modules/ecs/variables.tf", "terraform/examples/complete/variables.tf"] {
        let text = text(file);
        let variable = text.split("variable \"authentication\" {").nth(1).and_then(|rest| rest.split("\n}").next());
        let mut lines = variable.expect("the variable").lines().map(str::trim);
        assert!(!lines.any(|line| line.starts_with("default")), "{file}: authentication has a default");
    }
}

/// As it is shipped, the production overlay starts no server, whichever way it is applied.
#[test]
fn the_production_overlay_starts_no_server_until_its_choices_are_made() {
    let all = rendered("production");
    let read = |chosen: &[(&str, &str)]| {
        let mut given = variables(&all, deployment(&all, "blue"));
        for secret in ["DATABASE_URL", "FORWARD_KEY"] {
            given.remove(secret);
        }
        given.insert("RELEASE_COLOR".to_owned(), "blue".to_owned());
        given.extend(chosen.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        mcp_server::Config::read(&|name| given.get(name).cloned()).map_err(|problems| problems.to_string())
    };
    let open = read(&[]).expect_err("nobody has chosen");
    for wanted in ["AUTHENTICATION=oauth", "AUTHENTICATION=none", "TRUSTED_PROXIES=`choose`"] {
        assert!(open.contains(wanted), "{wanted} is not listed: {open}");
    }
    let oauth = [("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", "https://auth.example.com")];
    let still_open = read(&oauth).expect_err("no proxy was named");
    assert!(still_open.contains("TRUSTED_PROXIES") && !still_open.contains("AUTHENTICATION"), "{still_open}");
    for proxies in ["10.244.0.0/16", "none"] {
        read(&[oauth[0], oauth[1], ("TRUSTED_PROXIES", proxies)]).expect("every choice is made");
    }
    // And nothing that is not filled in is applied. It is found before a cluster is looked for.
    for overlay in [&["production"][..], &["production", "--diff"]] {
        let applied = Command::new(format!("{ROOT}/k8s/apply")).args(overlay).env("KUBECONFIG", "/dev/null").output();
        let applied = applied.expect("k8s/apply starts");
        let open = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert_eq!(applied.status.code(), Some(64), "{open}");
        for wanted in ["AUTHENTICATION in", "TRUSTED_PROXIES in", "192.0.2.10/32", "192.0.2.20/32"] {
            assert!(open.contains(wanted), "{wanted} is not listed: {open}");
        }
    }
}

/// A build that has passed no gate is no stranger's to see: where a header or a host leads to it, addresses are named.
#[test]
fn no_entrance_leads_strangers_to_an_idle_color() {
    let is_narrow = |networks: &[&str]| !networks.is_empty() && networks.iter().all(|network| !network.ends_with("/0"));
    let annotation = |object: &Value, name: &str| {
        let value = &object["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")];
        value.as_str().map(str::to_owned)
    };
    let mut previews = Vec::new();
    for folder in ["production", "minimal", "../ingress", "../ingress/preview", "../gateway", "../gateway/preview"] {
        let all = rendered(folder);
        for ingress in all.iter().filter(|object| object["kind"] == "Ingress") {
            // ingress-nginx ignores the allow-list of a canary, so there is none.
            let annotations = ingress["metadata"]["annotations"].as_object().expect("annotations");
            let canary = annotations.keys().find(|name| name.contains("/canary"));
            assert_eq!(canary, None, "{folder}: {} is a canary", name(ingress));
            let backends = json!(ingress["spec"]["rules"]).to_string();
            if ["mcp-server-preview", "mcp-server-blue", "mcp-server-green"].iter().any(|idle| backends.contains(idle)) {
                let networks = annotation(ingress, "whitelist-source-range").unwrap_or_default();
                assert!(
                    is_narrow(&networks.split(',').filter(|one| !one.is_empty()).collect::<Vec<_>>()),
                    "{folder}: {networks}"
                );
                previews.push(folder);
            }
        }
        for route in all.iter().filter(|object| object["kind"] == "HTTPRoute") {
            let matches = list(&route["spec"]["rules"]).iter().flat_map(|rule| list(&rule["matches"]));
            if !matches.clone().any(|matched| !matched["headers"].is_null() || !matched["queryParams"].is_null()) {
                continue;
            }
            let guards = all.iter().filter(|object| object["kind"] == "SecurityPolicy").filter(|policy| {
                let targets = list(&policy["spec"]["targetRefs"]).iter();
                targets.clone().any(|target| target["kind"] == "HTTPRoute" && target["name"] == route["metadata"]["name"])
            });
            let guards: Vec<_> = guards.map(|policy| &policy["spec"]["authorization"]).collect();
            let [authorization] = guards[..] else { panic!("{folder}: anybody may name a color at {}", name(route)) };
            assert_eq!(authorization["defaultAction"], "Deny", "{folder}");
            for rule in list(&authorization["rules"]) {
                let networks: Vec<_> = list(&rule["principal"]["clientCIDRs"]).iter().filter_map(Value::as_str).collect();
                assert!(rule["action"] == "Deny" || is_narrow(&networks), "{folder}: {rule}");
            }
            previews.push(folder);
        }
    }
    assert_eq!(previews, ["../ingress/preview", "../gateway/preview"], "a preview is opt-in");
}

/// Where pods may connect to is named, by a namespace, by pods or by a network, except by `rollout`, which looks for the API server.
#[test]
fn the_production_overlay_lets_servers_connect_to_named_places_only() {
    let all = rendered("production");
    for policy in all.iter().filter(|object| object["kind"] == "NetworkPolicy" && name(object) != "rollout") {
        for rule in list(&policy["spec"]["egress"]) {
            let places = list(&rule["to"]);
            assert!(!places.is_empty(), "{}: {rule} leads anywhere", name(policy));
            let anywhere = places.iter().any(|place| place["ipBlock"]["cidr"].as_str().is_some_and(|cidr| cidr.ends_with("/0")));
            assert!(!anywhere, "{}: {rule} leads anywhere", name(policy));
        }
    }
    for (policy, port) in [("database", 5432), ("issuer", 443)] {
        let egress = json!(one(&all, "NetworkPolicy", policy)["spec"]["egress"]).to_string();
        assert!(egress.contains(&port.to_string()), "{policy}: {egress}");
    }
}

#[test]
fn the_deadlines_form_one_chain() {
    for (folder, color) in PLACES {
        let all = rendered(folder);
        let deployment = deployment(&all, color);
        let given = variables(&all, deployment);
        let [leave, call, drain, close] = ["LEAVE_DELAY_SECS", "CALL_TIMEOUT_SECS", "DRAIN_DEADLINE_SECS", "CLOSE_SECS"]
            .map(|name| given[name].parse::<u64>().expect("a number of seconds"));
        let number = |value: &Value| value.as_u64().expect("a number");
        let grace = number(&deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]);
        assert!(call <= drain, "{folder}: a call may take {call} s and a drain waits {drain} s");
        assert!(leave + drain + close + 5 <= grace, "{folder}: killed after {grace} s, in the middle of a departure");
        let probe = &container(deployment)["readinessProbe"];
        let noticed = number(&probe["periodSeconds"]) * number(&probe["failureThreshold"]);
        assert!(noticed < leave, "{folder}: unready is noticed after {noticed} s, and the port closes after {leave} s");
        for object in &all {
            let patience = &object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"];
            let patience: Option<u64> = patience.as_str().map(|text| text.parse().expect("seconds"));
            assert!(patience.is_none_or(|patience| patience > call), "{folder}: the ingress gives a call up before the server");
        }
    }
}

#[test]
fn probes_ask_what_they_should_and_pods_may_do_nothing() {
    for (folder, color) in PLACES {
        let all = rendered(folder);
        let (pod, container) = (&deployment(&all, color)["spec"]["template"]["spec"], container(deployment(&all, color)));
        for (probe, door) in [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")] {
            assert_eq!(container[probe]["httpGet"], json!({ "path": door, "port": "http" }), "{folder} {probe}");
        }
        assert_eq!(container["lifecycle"], Value::Null, "{folder}: SIGTERM begins the leave delay, and no hook can POST");
        is_confined(folder, pod, container);
        for rule in list(&one(&all, "Role", "rollout")["rules"]) {
            let many = ["*", "secrets", "pods/exec"].map(|resource| list(&rule["resources"]).contains(&json!(resource)));
            assert!(!many.contains(&true), "{folder}: a rollout needs no {rule}");
        }
    }
}

/// The image brings one program, and that program is granted nothing, wherever it runs.
#[test]
fn the_image_is_granted_nothing_wherever_it_runs() {
    let jobs = rendered("../jobs");
    let job = one(&jobs, "Job", "mcp-server-migrate");
    is_confined("jobs", &job["spec"]["template"]["spec"], container(job));
    for (file, lines) in [
        ("Dockerfile", &["USER 65532:65532", "FROM scratch"][..]),
        ("dev", &["--user 65532:65532", "buildah from scratch"]),
        (
            "compose.yaml",
            &["user: \"65532:65532\"", "read_only: true", "cap_drop: [ALL]", "security_opt: [\"no-new-privileges:true\"]"],
        ),
        (
            "terraform/modules/ecs/main.tf",
            &["user = \"65532:65532\"", "readonlyRootFilesystem = !var.enable_execute_command", "drop = [\"ALL\"]", "add = []"],
        ),
    ] {
        let text = text(file);
        for line in lines {
            assert!(text.contains(line), "{file} does not say {line}");
        }
        for grant in ["privileged", "cap_add", "add = [\"", "network_mode: host", "docker.sock", "hostPath"] {
            assert!(!text.contains(grant), "{file} grants {grant}");
        }
    }
    for (folder, _) in PLACES {
        for grant in ["hostPath", "hostNetwork", "hostPID", "hostIPC", "privileged", "SYS_ADMIN"] {
            let all = json!(rendered(folder)).to_string();
            assert!(!all.contains(&format!("\"{grant}\"")), "{folder} grants {grant}");
        }
    }
}

/// A user that is nobody, a file system that nothing is written to, no capability, no way to get one, and no way to the API.
#[track_caller]
fn is_confined(place: &str, pod: &Value, container: &Value) {
    let granted =
        json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
    assert_eq!(container["securityContext"], granted, "{place}");
    let pod_security = &pod["securityContext"];
    for (name, value) in [("runAsNonRoot", json!(true)), ("runAsUser", json!(65532)), ("runAsGroup", json!(65532))] {
        assert_eq!(pod_security[name], value, "{place}: {name}");
    }
    assert_eq!(pod_security["seccompProfile"]["type"], "RuntimeDefault", "{place}");
    assert_eq!(pod["automountServiceAccountToken"], false, "{place}");
}

#[test]
fn the_minimal_overlay_has_only_what_kubernetes_1_20_has() {
    let all = rendered("minimal");
    for object in &all {
        let known = ["v1", "apps/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1"];
        assert!(known.iter().any(|version| object["apiVersion"] == *version), "{} {}", object["kind"], name(object));
    }
    for deployment in ["blue", "green"].map(|color| deployment(&all, color)) {
        assert_eq!(deployment["spec"]["replicas"], 1);
        let image = ["image", "imagePullPolicy"].map(|what| &container(deployment)[what]);
        assert_eq!(image, ["localhost/mcp-server:1", "IfNotPresent"]);
    }
    assert_eq!(one(&all, "Service", "mcp-server")["spec"]["type"], "NodePort");
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let metrics = text("mcp-server/src/telemetry/metrics.rs").replace('.', "_");
    let exists = |metric: &str| metrics.contains(&format!("\"{metric}\""));
    let rollout = text("rollout/src/metrics.rs");
    let mistakes = rollout.lines().find(|line| line.starts_with("const MISTAKES")).expect("the mistakes of callers");
    for file in ["k8s/monitoring/alerts.yaml", "k8s/monitoring/dashboard.json"] {
        let text = text(file);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':') {
            let ours = ["mcp_server_", "db_client_", "lifecycle_"].iter().any(|ours| word.starts_with(ours));
            let mut names = ["", "_total", "_seconds_count", "_seconds_bucket"].iter().filter_map(|unit| word.strip_suffix(unit));
            assert!(!ours || names.any(exists), "{file}: there is no {word}");
        }
        for mistake in mistakes.split('"').skip(1).step_by(2) {
            assert!(text.contains(&format!("|{mistake}")), "{file}: `{mistake}` blames the caller, not us");
        }
    }
}

/// Whoever sends too much must not take a build back: the alarm counts 5xx, and no limit answers with one.
#[test]
fn no_alarm_counts_what_a_limit_refused() {
    let alarms = text("terraform/modules/shifter/alarms.tf");
    let counted: Vec<_> = alarms.split('"').filter(|word| word.starts_with("HTTPCode_")).collect();
    assert_eq!(counted, ["HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count"]);
    let limits = text("mcp-server/src/limits.rs");
    let code: Vec<_> = limits.split("#[cfg(test)]").next().expect("the code").lines().collect();
    let server_errors = ["SERVICE_UNAVAILABLE", "INTERNAL_SERVER_ERROR", "BAD_GATEWAY", "GATEWAY_TIMEOUT"];
    let refused: Vec<_> = code.iter().filter(|line| server_errors.iter().any(|status| line.contains(status))).collect();
    assert!(refused.is_empty() && code.iter().any(|line| line.contains("TOO_MANY_REQUESTS")), "{refused:?}");
}

/// A folder, seen from k8s/overlays, as the objects that `kubectl kustomize` makes of it.
/// Terraform's own tests hold its chain together; here it is held against the code.
#[test]
fn terraforms_defaults_are_those_of_the_code() {
    let (tasks, balancer) = (text("terraform/modules/ecs/variables.tf"), text("terraform/modules/alb/variables.tf"));
    let ecs = text("terraform/modules/ecs/main.tf");
    let kubernetes = rendered("production");
    let kubernetes = variables(&kubernetes, deployment(&kubernetes, "blue"));
    let default = |text: &str, name: &str| -> u64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("there is no {name}"));
        let number = line.split("optional(number, ").nth(1).and_then(|rest| rest.split(')').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no default in {line}"))
    };
    // What both platforms have, they have alike; an ALB goes on sending for longer than a Service.
    for (name, variable) in
        [("call_timeout", "CALL_TIMEOUT_SECS"), ("drain_deadline", "DRAIN_DEADLINE_SECS"), ("close", "CLOSE_SECS")]
    {
        assert_eq!(default(&tasks, name).to_string(), kubernetes[variable], "{name}");
    }
    for name in ["call_timeout", "leave_delay", "server_idle_timeout"] {
        assert_eq!(default(&tasks, name), default(&balancer, name), "{name} in both modules");
    }
    let config = text("mcp-server/src/config.rs");
    let given: Vec<_> = ecs.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(name, _)| name.trim()).collect();
    let given: Vec<_> = given
        .into_iter()
        .filter(|name| name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .collect();
    assert!(given.contains(&"LEAVE_DELAY_SECS") && given.contains(&"RELEASE_COLOR"), "{given:?}");
    for name in given {
        assert!(config.contains(&format!("\"{name}\"")), "nobody reads {name}");
    }
    // Names that the driver looks for, and paths that the server has.
    for part in ["\"/ready\"", "\"release-color\""] {
        assert!(text("terraform/modules/alb/main.tf").contains(part), "{part}");
    }
    for port in ["3000", "9464"] {
        assert!(ecs.contains(port), "{port}");
    }
}

fn rendered(folder: &str) -> Vec<Value> {
    let missing = "kubectl cannot be run: `./dev test` says which one is needed";
    let path = format!("{ROOT}/k8s/overlays/{folder}");
    let mut kustomize = Command::new("kubectl").args(["kustomize", path.as_str()]).stdout(Stdio::piped()).spawn().expect(missing);
    // A patch of nothing, done here and not by a server: the shortest way from YAML to JSON.
    let mut patch = Command::new("kubectl");
    patch.args(["patch", "--local", "--type=merge", "--patch={}", "--output=json", "--filename=-"]);
    let patched = patch.stdin(kustomize.stdout.take().expect("a pipe")).output().expect(missing);
    assert!(kustomize.wait().is_ok_and(|status| status.success()), "kubectl kustomize {folder} failed, and said why above");
    assert!(patched.status.success(), "{folder}: {}", String::from_utf8_lossy(&patched.stderr));
    let objects = serde_json::Deserializer::from_slice(&patched.stdout).into_iter::<Value>();
    objects.collect::<Result<_, _>>().expect("kubectl prints JSON")
}

/// What the container is told: values as they are, and of what is found elsewhere the name of the place.
fn variables(all: &[Value], workload: &Value) -> BTreeMap<String, String> {
    let container = container(workload);
    let mut variables = BTreeMap::new();
    for from in list(&container["envFrom"]) {
        let config = one(all, "ConfigMap", from["configMapRef"]["name"].as_str().expect("a ConfigMap"));
        for (name, value) in config["data"].as_object().expect("data") {
            variables.insert(name.clone(), value.as_str().expect("text").to_owned());
        }
    }
    for variable in list(&container["env"]) {
        let (field, secret) = (&variable["valueFrom"]["fieldRef"]["fieldPath"], &variable["valueFrom"]["secretKeyRef"]["name"]);
        let value = [&variable["value"], field, secret].into_iter().find_map(Value::as_str).expect("a value or its place");
        variables.insert(variable["name"].as_str().expect("a name").to_owned(), value.to_owned());
    }
    variables
}

fn container(workload: &Value) -> &Value {
    let mut containers = list(&workload["spec"]["template"]["spec"]["containers"]).iter();
    containers.find(|container| container["name"] == "mcp-server").expect("a container mcp-server")
}

fn deployment<'a>(all: &'a [Value], color: &str) -> &'a Value {
    one(all, "Deployment", &format!("mcp-server-{color}"))
}

fn one<'a>(all: &'a [Value], kind: &str, wanted: &str) -> &'a Value {
    let found = all.iter().find(|object| object["kind"] == kind && name(object) == wanted);
    found.unwrap_or_else(|| panic!("there is no {kind} {wanted}"))
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(path: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{path}")).expect("sources are readable")
}
