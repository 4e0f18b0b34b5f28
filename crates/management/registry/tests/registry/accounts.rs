//! Who may do what: users, roles, robots, tokens, quotas, search, audit.

use std::time::Duration;

use sampan_registry::Digest;
use serde_json::{Value, json};

use crate::support::{Client, MANIFEST, Server, noise};

fn token(c: &Client, scope: &str) -> String {
    let answer = c.get(&format!("/v2/token?service=sampan-registry&scope={scope}")).is(200).json();
    assert_eq!(answer["token"], answer["access_token"]);
    answer["token"].as_str().unwrap().to_owned()
}

fn secret(answer: &Value) -> (String, String) {
    (answer["name"].as_str().unwrap().to_owned(), answer["secret"].as_str().unwrap().to_owned())
}

fn asked(client: &Client, method: &str, path: &str, body: Value) -> crate::support::Answer {
    client.ask(method, &format!("/api/v1/{path}"), &[], body.to_string().as_bytes())
}

/// A registry that asks for names, its administrator, and a project with a user of each role.
fn team() -> (Server, Client) {
    let server = Server::start(|options| options.open = false);
    let password = std::fs::read_to_string(server.dir.join("admin-password")).unwrap();
    let admin = server.client().basic("admin", password.trim());
    asked(&admin, "POST", "projects", json!({ "name": "team" })).is(201);
    for (user, role) in [("guest", "guest"), ("dev", "developer"), ("lead", "maintainer"), ("other", "")] {
        asked(&admin, "POST", "users", json!({ "name": user, "password": format!("{user}-secret") })).is(201);
        if !role.is_empty() {
            asked(&admin, "PUT", &format!("projects/team/members/{user}"), json!({ "role": role })).is(200);
        }
    }
    (server, admin)
}

#[test]
fn roles_say_who_may_do_what() {
    let (server, admin) = team();
    let c = server.client();
    // Nobody is let in without a name, and is told how to get one.
    let refused = c.get("/v2/").refused(401, "UNAUTHORIZED");
    let realm = "Bearer realm=\"http://registry.test/v2/token\",service=\"sampan-registry\"";
    assert_eq!(refused.header("www-authenticate"), realm);
    let refused = c.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").refused(401, "UNAUTHORIZED");
    assert_eq!(
        refused.header("www-authenticate"),
        format!("{realm},scope=\"repository:team/app:pull,push\"")
    );
    c.get("/api/v1/projects").is(200);
    c.get("/api/v1/users").refused(401, "UNAUTHORIZED");
    c.get("/metrics").refused(401, "UNAUTHORIZED");
    c.get("/healthz").is(200);
    admin.get("/v2/").is(200);
    c.basic("admin", "wrong").get("/v2/").refused(401, "UNAUTHORIZED");
    asked(&admin, "POST", "projects", json!({ "name": "team" })).refused(409, "CONFLICT");
    asked(&admin, "POST", "projects", json!({ "name": "../x" })).refused(400, "UNSUPPORTED");
    let user = |name: &str| c.basic(name, &format!("{name}-secret"));
    let digest = user("dev").push_image("team/app", "v1", &[b"layer"]);
    let manifest = "/v2/team/app/manifests/v1";
    for (name, status) in [("guest", 200), ("dev", 200), ("other", 403)] {
        user(name).get(manifest).is(status);
    }
    c.get(manifest).is(401);
    user("guest").ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").refused(403, "DENIED");
    let delete = format!("/v2/team/app/manifests/{digest}");
    user("dev").ask("DELETE", &delete, &[], b"").refused(403, "DENIED");
    asked(&user("dev"), "PATCH", "projects/team", json!({ "public": true })).refused(403, "DENIED");
    asked(&user("lead"), "PATCH", "projects/team", json!({ "quota": 1 })).refused(403, "DENIED");
    asked(&user("dev"), "GET", "users", Value::Null).refused(403, "DENIED");
    user("dev").ask("POST", "/v2/nowhere/app/blobs/uploads/", &[], b"").refused(403, "DENIED");
    // A blob of a project that one may not see cannot be mounted.
    asked(&admin, "POST", "projects", json!({ "name": "mine", "members": { "other": "developer" } })).is(201);
    let blob = Digest::of(b"layer");
    user("other")
        .ask("POST", &format!("/v2/mine/x/blobs/uploads/?mount={blob}&from=team/app"), &[], b"")
        .is(202);
}

#[test]
fn robots_and_tokens_are_good_for_what_they_say_and_as_long_as_they_say() {
    let (server, admin) = team();
    let c = server.client();
    let user = |name: &str| c.basic(name, &format!("{name}-secret"));
    let digest = user("dev").push_image("team/app", "v1", &[b"layer"]);
    let (manifest, delete) = ("/v2/team/app/manifests/v1", format!("/v2/team/app/manifests/{digest}"));
    asked(&admin, "POST", "projects", json!({ "name": "mine" })).is(201);
    // Tokens say less than who has them may do.
    let pull = c.bearer(&token(&user("dev"), "repository:team/app:pull"));
    pull.get(manifest).is(200);
    pull.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").refused(401, "UNAUTHORIZED");
    let more = c.bearer(&token(&user("guest"), "repository:team/app:pull,push,delete"));
    more.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").refused(403, "DENIED");
    c.bearer("a.b.c").get("/v2/").refused(401, "UNAUTHORIZED");
    let whole = token(&user("dev"), "repository:team/app:pull");
    let (head, signature) = whole.rsplit_once('.').unwrap();
    c.bearer(&format!("{head}x.{signature}")).get(manifest).refused(401, "UNAUTHORIZED");
    let form = "grant_type=password&service=sampan-registry&username=dev&password=dev-secret&scope=repository:team/app:pull";
    let answer = c
        .ask("POST", "/v2/token", &[("content-type", "application/x-www-form-urlencoded")], form.as_bytes())
        .is(200)
        .json();
    c.bearer(answer["access_token"].as_str().unwrap()).get(manifest).is(200);

    // Robots: only what they are for, only as long as they are good.
    let robot = asked(
        &user("lead"),
        "POST",
        "projects/team/robots",
        json!({ "name": "ci", "actions": ["pull", "push"] }),
    )
    .is(201)
    .json();
    let (name, word) = secret(&robot);
    assert_eq!(name, "robot$team+ci");
    let ci = c.basic(&name, &word);
    ci.push_image("team/app", "v2", &[b"by a robot"]);
    ci.ask("DELETE", &delete, &[], b"").refused(403, "DENIED");
    ci.get("/v2/mine/x/manifests/v1").refused(403, "DENIED");
    let short = asked(&admin, "POST", "projects/team/robots", json!({ "name": "short", "ttlSeconds": 1 }))
        .is(201)
        .json();
    let (name, word) = secret(&short);
    let short = c.basic(&name, &word);
    let held = c.bearer(&token(&short, "repository:team/app:pull"));
    std::thread::sleep(Duration::from_millis(2100));
    short.get(manifest).refused(401, "UNAUTHORIZED");
    held.get(manifest).refused(401, "UNAUTHORIZED");
    asked(&admin, "PATCH", "projects/team/robots/ci", json!({ "disabled": true })).is(200);
    ci.get(manifest).refused(401, "UNAUTHORIZED");
    asked(&admin, "PATCH", "users/dev", json!({ "disabled": true })).is(200);
    pull.get(manifest).refused(401, "UNAUTHORIZED");
    user("lead").ask("DELETE", &delete, &[], b"").is(202);
    // Public: anybody pulls, nobody pushes.
    asked(&admin, "PATCH", "projects/team", json!({ "public": true })).is(200);
    c.get("/v2/team/app/manifests/v2").is(200);
    c.bearer(&token(&c, "repository:team/app:pull")).get("/v2/team/app/manifests/v2").is(200);
    c.ask("DELETE", "/v2/team/app/manifests/v2", &[], b"").refused(401, "UNAUTHORIZED");
    // Everything is in the log.
    let log = asked(&admin, "GET", "audit?limit=1000", Value::Null).is(200).json();
    for action in ["push", "delete", "denied", "create-project", "create-robot", "change-user"] {
        assert!(log.as_array().unwrap().iter().any(|entry| entry["action"] == action), "{action}: {log}");
    }
    let file = std::fs::read_to_string(server.dir.join("audit.log")).unwrap();
    assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()) && !file.contains("secret"));
    // Guessing ends.
    for _ in 0..20 {
        c.basic("robot$guess", "guess").get("/v2/");
    }
    c.basic("admin", "guess").get("/v2/").refused(429, "TOOMANYREQUESTS");
}

#[test]
fn quotas_count_what_a_project_shares_once() {
    let server = Server::start(|_| {});
    let c = server.client();
    server.admin("POST", "projects", json!({ "name": "small", "quota": 100_000 })).is(201);
    let used = |server: &Server| {
        server.admin("GET", "projects/small", Value::Null).is(200).json()["used"].as_u64().unwrap()
    };
    let layer = noise(1, 60_000);
    let digest = c.push_image("small/a", "one", &[&layer]);
    let first = used(&server);
    assert!((60_000..61_000).contains(&first), "{first}");
    c.push_image("small/b", "one", &[&layer]);
    assert!(used(&server) < first + 1000, "{}", used(&server));
    let refused = format!("/v2/small/c/blobs/uploads/?digest={}", Digest::of(&noise(2, 60_000)));
    c.ask("POST", &refused, &[], &noise(2, 60_000)).refused(403, "DENIED");
    // The same after a restart, which counts anew.
    let before = used(&server);
    let dir = server.dir.clone();
    let keep = tempfile::tempdir().unwrap();
    let copy = keep.path().join("copy");
    crate::support::run(std::process::Command::new("cp").arg("-a").arg(&dir).arg(&copy));
    let again = Server::on(&copy, |_| {});
    assert_eq!(used(&again), before);
    let c = again.client();
    c.ask("DELETE", &format!("/v2/small/a/manifests/{digest}"), &[], b"").is(202);
    again.collect(false);
    // The other repository still has the layer.
    assert!((60_000..61_000).contains(&used(&again)), "{}", used(&again));
    again.stop();
}

#[test]
fn labels_search_and_what_is_in_a_project() {
    let server = Server::start(|_| {});
    let c = server.client();
    let digest = c.push_image("shop/cart", "v1", &[b"a"]);
    c.push_image("shop/Pay".to_lowercase().as_str(), "v2-beta", &[b"b"]);
    server
        .admin("PATCH", "artifacts?repository=shop/cart&reference=v1", json!({ "labels": ["audited"] }))
        .is(200);
    server
        .admin(
            "PATCH",
            "repositories?name=shop/pay",
            json!({ "labels": ["money"], "description": "takes it" }),
        )
        .is(200);
    let search = |word: &str| c.get(&format!("/api/v1/search?q={word}")).is(200).json();
    assert_eq!(search("money")["repositories"], json!(["shop/pay"]));
    assert_eq!(search("audited")["artifacts"], json!([format!("shop/cart@{digest}")]));
    assert_eq!(search("beta")["artifacts"], json!(["shop/pay:v2-beta"]));
    assert_eq!(search("shop")["projects"], json!(["shop"]));
    let artifacts = c.get("/api/v1/artifacts?repository=shop/cart").is(200).json();
    assert_eq!((&artifacts[0]["tags"], &artifacts[0]["mediaType"]), (&json!(["v1"]), &json!(MANIFEST)));
    let repositories = c.get("/api/v1/projects/shop/repositories").is(200).json();
    assert_eq!(repositories[1]["description"], "takes it");
    server.admin("DELETE", "projects/shop", Value::Null).refused(409, "CONFLICT");
    server.admin("DELETE", "repositories?name=shop/cart", Value::Null).is(200);
    server.admin("DELETE", "repositories?name=shop/pay", Value::Null).is(200);
    server.admin("DELETE", "projects/shop", Value::Null).is(200);
    let status = server.admin("GET", "status", Value::Null).is(200).json();
    assert!(status["storedBytes"].as_u64().is_some());
    server.admin("GET", "nothing", Value::Null).refused(404, "NOT_FOUND");
}

#[test]
fn tokens_administer_nothing_and_names_that_come_again_inherit_nothing() {
    let (server, admin) = team();
    let c = server.client();
    let user = |name: &str| c.basic(name, &format!("{name}-secret"));
    // A token of an administrator is good for its repositories only.
    let bearer = c.bearer(&token(&admin, "repository:team/app:pull"));
    for (method, path) in [("GET", "users"), ("POST", "gc"), ("PATCH", "users/admin")] {
        asked(&bearer, method, path, json!({})).refused(401, "UNAUTHORIZED");
    }
    asked(&user("dev"), "PATCH", "users/dev", json!({ "password": null })).refused(400, "UNSUPPORTED");
    // Who is in a public project is for its members.
    asked(&admin, "PATCH", "projects/team", json!({ "public": true })).is(200);
    let listed = |client: &Client| {
        let all = client.get("/api/v1/projects").is(200).json();
        all.as_array().unwrap().iter().find(|project| project["name"] == "team").unwrap().clone()
    };
    assert!(listed(&c)["members"].is_null() && listed(&user("other"))["members"].is_null());
    assert_eq!(listed(&user("guest"))["members"]["dev"], "developer");
    // What was read is written back without the password that was not shown.
    let proxy = json!({ "upstream": "http://127.0.0.1:1", "username": "u", "password": "word" });
    asked(&admin, "POST", "projects", json!({ "name": "hub", "proxy": proxy })).is(201);
    let shown = asked(&admin, "GET", "projects/hub", Value::Null).json();
    assert_eq!(shown["proxy"]["password"], "***");
    asked(&admin, "PATCH", "projects/hub", json!({ "proxy": shown["proxy"] })).is(200);
    // The next project of the name has neither its robots nor its webhooks, the next user not the roles.
    let robot = asked(&user("lead"), "POST", "projects/team/robots", json!({ "name": "ci" })).is(201).json();
    let ci = c.basic(&secret(&robot).0, &secret(&robot).1);
    ci.get("/v2/").is(200);
    asked(&user("lead"), "PUT", "projects/team/webhooks/w", json!({ "url": "http://127.0.0.1:1/" })).is(200);
    asked(&admin, "DELETE", "users/dev", Value::Null).is(200);
    asked(&admin, "POST", "users", json!({ "name": "dev", "password": "dev-secret" })).is(201);
    user("dev").ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").refused(403, "DENIED");
    asked(&admin, "DELETE", "projects/team", Value::Null).is(200);
    asked(&admin, "POST", "projects", json!({ "name": "team" })).is(201);
    ci.get("/v2/").refused(401, "UNAUTHORIZED");
    assert_eq!(asked(&admin, "GET", "projects/team/webhooks", Value::Null).is(200).json(), json!([]));
}

#[test]
fn many_may_log_in_at_once_and_guess_only_a_little() {
    let (server, _admin) = team();
    let c = server.client();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| c.basic("dev", "dev-secret").get("/v2/").is(200));
        }
    });
    let wrong: Vec<u16> = std::thread::scope(|scope| {
        let guess = |n: usize| c.basic("dev", &format!("guess-{n}")).get("/v2/").status;
        let all: Vec<_> = (0..60).map(|n| scope.spawn(move || guess(n))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let looked_at = wrong.iter().filter(|status| **status == 401).count();
    assert!(wrong.iter().all(|status| matches!(status, 401 | 429)) && looked_at <= 22, "{wrong:?}");
}
