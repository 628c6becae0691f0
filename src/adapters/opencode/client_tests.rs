//! What the REST client makes of answers: whose they are, and what they say.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that does not parse must fail the test"
)]

use super::*;

#[test]
fn secrets_are_not_printed() {
    let client = Client::new(
        Url::parse("http://127.0.0.1:9/").unwrap(),
        Some(Credentials {
            username: "opencode".to_owned(),
            password: "hunter2".to_owned(),
        }),
    )
    .unwrap();
    assert!(!format!("{client:?}").contains("hunter2"));
}

/// Answers every request on its port with `answer`.
async fn answers(answer: String) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, serving)
}

/// A client of a server that says this to every request; abort the task to end it. `head` = status and headers, lines apart.
async fn hears(head: &str, body: &str) -> (Client, tokio::task::JoinHandle<()>) {
    let length = body.len();
    let (address, serving) = answers(format!(
        "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
    .await;
    let base = Url::parse(&format!("http://{address}/")).unwrap();
    (Client::near(base, None).unwrap(), serving)
}

#[tokio::test]
async fn a_redirect_is_an_error_that_names_it_and_is_not_followed() {
    let aim = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = format!("http://{}/global/health", aim.local_addr().unwrap());
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
    ] {
        let (address, serving) = answers(format!(
            "HTTP/1.1 {status}\r\nlocation: {there}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
        let base = Url::parse(&format!("http://{address}/")).unwrap();
        for client in [
            Client::near(base.clone(), None).unwrap(),
            Client::new(base, None).unwrap(),
        ] {
            let limit = Duration::from_secs(5);
            let health = client.health(limit).await.map(drop);
            let call = client.get::<Value>("/session", &[]).await.map(drop);
            let act = client.act(Method::POST, "/x", &[], &Value::Null).await;
            let events = client.events().await.map(drop);
            for (error, of_the_server) in [
                (health.err(), true),
                (events.err(), true),
                (call.err(), false),
                (act.err(), false),
            ] {
                let error = error.unwrap();
                let unusable = matches!(error, EngineError::Unusable(_));
                assert_eq!(unusable, of_the_server, "{error}");
                assert_eq!(error.is_transient(), !of_the_server, "{error}");
                assert!(error.to_string().contains(&there), "{error}");
            }
        }
        serving.abort();
    }
    // Nobody came to where it led.
    let came = tokio::time::timeout(Duration::from_millis(50), aim.accept()).await;
    assert!(came.is_err());
}

#[tokio::test]
async fn that_something_does_not_exist_is_believed_in_its_own_words_only() {
    let table = [
        (
            r#"{"name":"NotFoundError","data":{"message":"Session not found: s"}}"#,
            true,
        ),
        (
            r#"{"_tag":"PermissionNotFoundError","requestID":"p","message":"m"}"#,
            true,
        ),
        ("", false),
        ("404 page not found\n", false),
        (
            "<html><center><h1>404 Not Found</h1></center><hr>nginx</html>",
            false,
        ),
        (r#"{"message":"no Route matched with those values"}"#, false),
        (r#""name""#, false),
    ];
    for (body, believed) in table {
        let (client, serving) = hears("404 Not Found", body).await;
        let call = client.get::<Value>("/session/s", &[]).await;
        let bytes = client.bytes("/file/content", &[], 100).await;
        let act = client
            .act(Method::DELETE, "/session/s", &[], &Value::Null)
            .await;
        let health = client.health(Duration::from_secs(5)).await;
        if believed {
            assert!(matches!(call, Ok(Reply::Missing)), "{body}");
            assert!(matches!(bytes, Ok(Bytes::Missing)), "{body}");
            assert!(matches!(act, Ok(false)), "{body}");
        } else {
            for error in [call.err(), bytes.err(), act.err()] {
                let error = error.unwrap();
                assert!(
                    matches!(error, EngineError::Unreachable(_)),
                    "{body}: {error}"
                );
            }
        }
        assert!(matches!(health, Err(EngineError::Unusable(_))), "{body}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_refusal_is_believed_in_its_own_words_only() {
    let named = r#"{"name":"BadRequest","data":{"message":"no"}}"#;
    let of_old = r#"{"data":{},"error":[{"message":"no"}],"success":false}"#;
    let table = [
        ("400 Bad Request", named, true),
        ("400 Bad Request", of_old, true),
        ("400 Bad Request", "<html>no</html>", false),
        ("405 Not Allowed", "<html>nginx</html>", false),
        ("401 Unauthorized", "", false),
        ("403 Forbidden", named, false),
        ("413 Payload Too Large", "", true),
    ];
    for (status, body, believed) in table {
        let (client, serving) = hears(status, body).await;
        let call = client.get::<Value>("/session/s", &[]).await.map(drop);
        let act = client.act(Method::POST, "/x", &[], &Value::Null).await;
        for error in [call.err(), act.err()] {
            let error = error.unwrap();
            let refused = matches!(error, EngineError::Refused(_));
            assert_eq!(refused, believed, "{status} {body}: {error}");
            assert_eq!(error.is_transient(), !believed, "{status} {body}: {error}");
        }
        serving.abort();
    }
}

#[tokio::test]
async fn something_was_done_when_it_says_so_itself() {
    let table = [
        ("204 No Content", "", true),
        ("200 OK", "application/json", true),
        ("200 OK", "text/plain", false),
        ("200 OK", "text/html; charset=utf-8", false),
    ];
    for (status, kind, believed) in table {
        let head = format!("{status}\r\ncontent-type: {kind}");
        let (client, serving) = hears(&head, "").await;
        let done = client.act(Method::POST, "/x", &[], &Value::Null).await;
        assert_eq!(done.is_ok(), believed, "{status} {kind}: {done:?}");
        serving.abort();
    }
}

#[test]
fn statuses_mean_what_they_say() {
    let table = [
        (400, false),
        (404, false),
        (429, true),
        (500, true),
        (503, true),
    ];
    for (status, transient) in table {
        let rejection = Rejection {
            status,
            message: String::new(),
        };
        assert_eq!(rejection.into_error().is_transient(), transient, "{status}");
    }
}

#[test]
fn messages_are_found_in_both_forms_of_error_bodies() {
    let table = [
        (r#"{"name":"NotFoundError","data":{"message":"a"}}"#, "a"),
        (r#"{"_tag":"X","message":"b"}"#, "b"),
        ("<html>", "without an explanation"),
    ];
    for (body, message) in table {
        assert_eq!(message_of(body.as_bytes()), message);
    }
}
