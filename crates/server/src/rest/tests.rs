//! Whole requests through the gateway, against a scripted [`crate::calls::Calls`].

use std::sync::{Arc, Mutex};

use super::*;
use crate::calls::fake::Fake;

type Seen = Arc<Mutex<Vec<(String, DynamicMessage)>>>;

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

fn rest(error: Option<Error>) -> (Rest, Seen) {
    let fake = Fake {
        error,
        ..Fake::default()
    };
    let seen = Arc::clone(&fake.seen);
    (Rest::new(Dispatch::new(Arc::new(fake))), seen)
}

async fn send(rest: &Rest, request: Request<Body>) -> Answer {
    let response = rest.serve(request, Meta::default()).await;
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        text,
    }
}

fn request(verb: &str, uri: &str, body: &'static str) -> Request<Body> {
    let builder = Request::builder()
        .method(verb)
        .uri(uri)
        .header("host", "localhost:8082");
    let builder = builder.header("content-type", "application/json; charset=utf-8");
    builder.body(Body::from(body)).unwrap()
}

async fn ask(verb: &str, uri: &str, body: &'static str) -> Answer {
    send(&rest(None).0, request(verb, uri, body)).await
}

/// The method called and its request, as JSON without defaults.
async fn called(verb: &str, uri: &str, body: &'static str) -> (String, String) {
    let (rest, seen) = rest(None);
    let answer = send(&rest, request(verb, uri, body)).await;
    assert_eq!(answer.status, 200, "{verb} {uri}: {}", answer.text);
    let (name, message) = Fake::last(&seen);
    (name, serde_json::to_string(&message).unwrap())
}

fn pair(name: &str, message: &str) -> (String, String) {
    (name.to_owned(), message.to_owned())
}

#[tokio::test]
async fn a_create_takes_its_body_and_the_id_from_the_query() {
    let body = r#"{"blockSize": "512", "blocks_count": 64}"#;
    let found = called("POST", "/v1/mallocVolumes?malloc_volume_id=m0", body).await;
    let expected =
        r#"{"mallocVolume":{"blockSize":"512","blocksCount":"64"},"mallocVolumeId":"m0"}"#;
    assert_eq!(found, pair("CreateMallocVolume", expected));
    let answer = ask("POST", "/v1/mallocVolumes?mallocVolumeId=m0", body).await;
    assert_eq!(answer.json()["name"], "made/m0");
    assert_eq!(answer.json()["blocksCount"], "64");
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_child_takes_its_parent_from_the_path() {
    let uri = "/v1/nvmeSubsystems/s/nvmeNamespaces?nvme_namespace_id=n";
    let found = called("POST", uri, r#"{"spec": {"volumeNameRef": "m0"}}"#).await;
    let expected = concat!(
        r#"{"parent":"nvmeSubsystems/s","nvmeNamespace":{"spec":{"volumeNameRef":"m0"}},"#,
        r#""nvmeNamespaceId":"n"}"#
    );
    assert_eq!(found, pair("CreateNvmeNamespace", expected));
}

#[tokio::test]
async fn a_patch_without_a_mask_gets_one_from_its_body() {
    let uri = "/v1/nvmeSubsystems/s";
    let body = r#"{"spec": {"serialNumber": "", "maxNamespaces": 7}}"#;
    let (_, message) = called("PATCH", uri, body).await;
    assert!(
        message.contains(r#""name":"nvmeSubsystems/s""#),
        "{message}"
    );
    let paths = r#""updateMask":"spec.maxNamespaces,spec.serialNumber""#;
    assert!(message.contains(paths), "{message}");
    let (_, message) = called("PATCH", &format!("{uri}?updateMask=spec.nqn"), body).await;
    assert!(message.contains(r#""updateMask":"spec.nqn""#), "{message}");
}

#[tokio::test]
async fn settings_are_read_and_patched_as_resources_are() {
    let uri = "/ext/v1/nvmeRemoteControllers/r/settings";
    let name = "nvmeRemoteControllers/r/settings";
    let found = called("GET", uri, "").await;
    let request = format!(r#"{{"name":"{name}"}}"#);
    assert_eq!(found, pair("GetNvmeRemoteControllerSettings", &request));
    let body = r#"{"connectTimeoutMs": 700, "ioTimeoutMs": null}"#;
    let (method, message) = called("PATCH", uri, body).await;
    assert_eq!(method, "UpdateNvmeRemoteControllerSettings");
    for part in [
        format!(r#""name":"{name}""#),
        r#""connectTimeoutMs":700"#.to_owned(),
        r#""updateMask":"connectTimeoutMs,ioTimeoutMs""#.to_owned(),
    ] {
        assert!(message.contains(&part), "no {part} in {message}");
    }
    assert!(!message.contains(r#""ioTimeoutMs""#), "{message}");
    assert_eq!(ask("DELETE", uri, "").await.status, 405);
}

#[tokio::test]
async fn sending_back_what_was_read_does_not_erase_a_key() {
    let body = r#"{"spec": {"nqn": "n", "psk": ""}, "status": null}"#;
    let (_, message) = called("PATCH", "/v1/nvmeSubsystems/s", body).await;
    assert!(
        message.contains(r#""updateMask":"spec.nqn,status""#),
        "{message}"
    );
    let body = r#"{"spec": {"psk": "YWJj"}}"#;
    let (_, message) = called("PATCH", "/v1/nvmeSubsystems/s", body).await;
    assert!(message.contains(r#""updateMask":"spec.psk""#), "{message}");
    let uri = "/v1/nvmeSubsystems/s?update_mask=spec.psk";
    let (_, message) = called("PATCH", uri, r#"{"spec": {"psk": ""}}"#).await;
    assert!(message.contains(r#""updateMask":"spec.psk""#), "{message}");
}

#[tokio::test]
async fn gets_deletes_lists_and_verbs_find_their_method() {
    let found = called("GET", "/v1/nullVolumes/n", "").await;
    assert_eq!(found, pair("GetNullVolume", r#"{"name":"nullVolumes/n"}"#));
    let found = called("GET", "/v1/nullVolumes/n:stats", "").await;
    assert_eq!(
        found,
        pair("StatsNullVolume", r#"{"name":"nullVolumes/n"}"#)
    );
    let found = called("DELETE", "/v1/nullVolumes/n?allow_missing=true", "").await;
    assert_eq!(
        found,
        pair(
            "DeleteNullVolume",
            r#"{"name":"nullVolumes/n","allowMissing":true}"#
        )
    );
    let found = called("GET", "/v1/nullVolumes?page_size=3", "").await;
    assert_eq!(found, pair("ListNullVolumes", r#"{"pageSize":3}"#));
    for body in ["", "{}"] {
        let found = called("POST", "/v1/nvmeRemoteControllers/c:reset", body).await;
        let expected = pair(
            "ResetNvmeRemoteController",
            r#"{"name":"nvmeRemoteControllers/c"}"#,
        );
        assert_eq!(found, expected);
    }
    assert_eq!(ask("DELETE", "/v1/nullVolumes/n", "").await.text, "{}");
}

#[tokio::test]
async fn the_colliding_lists_have_an_answer_each() {
    let parent = r#"{"parent":"volumes"}"#;
    let found = called("GET", "/v1/volumes", "").await;
    assert_eq!(found, pair("ListQosVolumes", parent));
    let found = called("GET", "/v1/qosVolumes", "").await;
    assert_eq!(found, pair("ListQosVolumes", parent));
    let found = called("GET", "/v1/encryptedVolumes", "").await;
    assert_eq!(found, pair("ListEncryptedVolumes", parent));
}

#[tokio::test]
async fn an_observation_is_found_by_a_name_of_many_segments() {
    let uri = "/ext/v1/observations/nvmeSubsystems/s/nvmeControllers/c";
    let expected = pair(
        "GetObservation",
        r#"{"name":"nvmeSubsystems/s/nvmeControllers/c"}"#,
    );
    assert_eq!(called("GET", uri, "").await, expected);
}

#[tokio::test]
async fn errors_are_a_status_with_the_http_code_of_their_kind() {
    let mut error = Error::precondition("nullVolumes/error is in use").about("nullVolumes/error");
    error.in_use_by = vec!["virtioBlks/b".to_owned()];
    let cases = [
        (Error::not_found("nullVolumes/error"), 404, 5),
        (error, 400, 9),
        (Error::unimplemented("nothing does this"), 501, 12),
        (Error::new(Code::AlreadyExists, "is there"), 409, 6),
        (Error::internal("broken"), 500, 13),
        (Error::unavailable("later"), 503, 14),
    ];
    for (error, status, code) in cases {
        let (rest, _) = rest(Some(error.clone()));
        let answer = send(&rest, request("GET", "/v1/nullVolumes/error", "")).await;
        assert_eq!(answer.status, status);
        let json = answer.json();
        assert_eq!(
            (&json["code"], &json["message"]),
            (&code.into(), &error.message.into())
        );
        let info = &json["details"][0];
        assert_eq!(info["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
        assert_eq!(info["domain"], "opi-storage");
    }
}

#[tokio::test]
async fn an_unknown_field_is_a_bad_request_that_names_it() {
    for (uri, body, field) in [
        (
            "/v1/nullVolumes",
            r#"{"blokSize": 512}"#,
            "null_volume.blokSize",
        ),
        (
            "/v1/nullVolumes",
            r#"{"blockSize": {}}"#,
            "null_volume.block_size",
        ),
        ("/v1/nullVolumes", "[]", "null_volume"),
        ("/v1/nullVolumes", "{", "body"),
        ("/v1/nullVolumes?id=x", "{}", "id"),
        (
            "/v1/nullVolumes?null_volume.uuid=x",
            "{}",
            "null_volume.uuid",
        ),
    ] {
        let answer = ask("POST", uri, body).await;
        assert_eq!(answer.status, 400, "{body}");
        let json = answer.json();
        assert_eq!(json["code"], 3);
        assert_eq!(
            json["details"][1]["fieldViolations"][0]["field"], field,
            "{json}"
        );
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_say_so() {
    let answer = ask("GET", "/v1/nothing", "").await;
    assert_eq!((answer.status, &answer.json()["code"]), (404, &5.into()));
    let answer = ask("PUT", "/v1/nullVolumes/n", "").await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.headers["allow"], "DELETE, GET, HEAD, OPTIONS, PATCH");
    let answer = ask("OPTIONS", "/v1/nullVolumes", "").await;
    assert_eq!((answer.status, &*answer.text), (204, ""));
    assert_eq!(answer.headers["allow"], "GET, HEAD, OPTIONS, POST");
    assert_eq!(ask("HEAD", "/v1/nullVolumes/n", "").await.status, 200);
    assert_eq!(ask("GET", "/v1/volumes/x", "").await.status, 404);
}

#[tokio::test]
async fn a_body_must_be_json_and_small_and_wanted() {
    let mut plain = request("POST", "/v1/nullVolumes", "{}");
    plain
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/plain"));
    assert_eq!(send(&rest(None).0, plain).await.status, 415);

    // What curl says when it is told nothing.
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let mut curl = request("POST", "/v1/nullVolumes", "{}");
    curl.headers_mut().insert("content-type", form);
    assert_ne!(send(&rest(None).0, curl).await.status, 415);
    let large = Request::post("/v1/nullVolumes").body(Body::from(vec![b' '; BODY_BYTES_MAX + 1]));
    assert_eq!(send(&rest(None).0, large.unwrap()).await.status, 413);
    assert_eq!(ask("GET", "/v1/nullVolumes/n", "{}").await.status, 400);
    let answer = ask("POST", "/v1/nvmeRemoteControllers/c:reset?name=x", "{}").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn another_web_site_may_not_call() {
    for (origin, status) in [("http://localhost:8082", 200), ("http://evil.example", 403)] {
        let mut sent = request("DELETE", "/v1/nullVolumes/n", "");
        sent.headers_mut()
            .insert("origin", HeaderValue::from_static(origin));
        assert_eq!(send(&rest(None).0, sent).await.status, status);
    }
}

#[tokio::test]
async fn a_watch_is_one_object_to_a_line() {
    let answer = ask("GET", "/ext/v1/observations:watch?kind=broken", "").await;
    let lines: Vec<serde_json::Value> = answer
        .text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["result"]["event"], "EVENT_UNSPECIFIED");
    assert_eq!(lines[2]["error"]["code"], 14);
    assert_eq!(
        ask("GET", "/ext/v1/observations:watch?kind=error", "")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let answer = ask("GET", "/v1/nullVolumes/panic", "").await;
    assert_eq!((answer.status, &answer.json()["code"]), (500, &13.into()));
}
