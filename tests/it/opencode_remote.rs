//! The driver against a server that is slow, forgetful, restarted, foreign or no OpenCode at all, through the engine `remote`.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::{PathMapping, RemoteEngine, RemoteSettings, Secret};
use chargehand_actors::event::{Prompt, PromptKind, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, TaskId};
use chargehand_actors::ports::{
    Activity, Engine, EngineError, EngineSignal, LastMessage, OpenSession, SendPrompt, Signal,
};
use serde_json::json;
use uuid::Uuid;

use crate::opencode_fake::{Fake, Faults, PASSWORD};

fn settings(url: &str) -> RemoteSettings {
    RemoteSettings {
        name: EngineName::new("remote"),
        url: url.to_owned(),
        username: "opencode".to_owned(),
        password: Some(Secret::new(PASSWORD)),
        path_map: None,
        directory: None,
        instance: InstanceId("i1".to_owned()),
        model: None,
    }
}

async fn started(faults: Faults) -> (Fake, RemoteEngine) {
    let fake = Fake::start(faults).await;
    let engine = RemoteEngine::new(settings(&fake.url)).unwrap();
    engine.start().await.unwrap();
    (fake, engine)
}

fn attempt(number: u32) -> AttemptId {
    AttemptId {
        task: TaskId::new(Uuid::from_u128(7)),
        number,
    }
}

fn opening(number: u32) -> OpenSession {
    OpenSession {
        attempt: attempt(number),
        directory: "/w".to_owned(),
        title: "a task".to_owned(),
        model: None,
        agent: None,
        permissions: Vec::new(),
        caller: "planner/agent".to_owned(),
        source: chargehand_actors::command::Source::Empty,
    }
}

fn prompt(session: &SessionRef) -> SendPrompt {
    SendPrompt {
        session: session.clone(),
        prompt: Prompt {
            number: 1,
            kind: PromptKind::First,
            message_id: "msg_1".to_owned(),
            part_id: "prt_1".to_owned(),
            text: "do".to_owned(),
            carries: None,
        },
        model: None,
        agent: None,
    }
}

fn session(id: &str, created: u32, owner: &str) -> serde_json::Value {
    json!({"id": id, "directory": "/w", "title": "x", "time": {"created": created},
           "metadata": {"chargehand": {"instance": owner, "task": Uuid::from_u128(7).to_string(), "attempt": 1}}})
}

#[tokio::test]
async fn what_cannot_be_used_says_what_to_do() {
    let cases = [
        (
            Faults {
                version: "1.2.27".to_owned(),
                ..Faults::default()
            },
            PASSWORD,
            "too old",
        ),
        (
            Faults::default(),
            "wrong",
            "refused the user name and password",
        ),
        (
            Faults {
                web_pages: vec!["/global/health"],
                ..Faults::default()
            },
            PASSWORD,
            "is not an OpenCode server",
        ),
    ];
    for (faults, password, words) in cases {
        let fake = Fake::start(faults).await;
        let mut settings = settings(&fake.url);
        settings.password = Some(Secret::new(password));
        let error = RemoteEngine::new(settings)
            .unwrap()
            .start()
            .await
            .unwrap_err();
        assert!(matches!(error, EngineError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains(password), "{error}");
    }
    let error = RemoteEngine::new(settings("ftp://x")).err().unwrap();
    assert!(matches!(error, EngineError::Unusable(_)));
}

#[tokio::test]
async fn a_dead_server_is_unreachable_and_a_failing_one_at_fault() {
    let (fake, engine) = started(Faults::default()).await;
    fake.state().faults.failures = 1;
    let error = engine.open(opening(1)).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Fault(text) if text.contains("bad day")),
        "{error:?}"
    );
    drop(fake);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = engine.probe().await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_newer_server_is_used_with_a_note() {
    let fake = Fake::start(Faults {
        version: "2.1.0".to_owned(),
        ..Faults::default()
    })
    .await;
    let ready = RemoteEngine::new(settings(&fake.url))
        .unwrap()
        .start()
        .await
        .unwrap();
    assert!(ready.note.unwrap().contains("newer"));
}

#[tokio::test]
async fn of_several_sessions_the_oldest_with_messages_is_kept() {
    let (fake, engine) = started(Faults::default()).await;
    {
        let mut state = fake.state();
        state.sessions = vec![
            session("ses_a", 1, "i1"),
            session("ses_b", 2, "i1"),
            session("ses_c", 3, "i1"),
            session("ses_x", 0, "i2"),
        ];
        let message = json!({"info": {"id": "msg_0", "role": "user"}, "parts": [{"type": "text"}]});
        state
            .messages
            .insert("ses_b".to_owned(), vec![message.clone()]);
        state.messages.insert("ses_c".to_owned(), vec![message]);
    }
    let (kept, _) = engine.open(opening(1)).await.unwrap();
    assert_eq!(kept.id, "ses_b");
    let left: Vec<String> = fake
        .state()
        .sessions
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        left,
        ["ses_b", "ses_x"],
        "the other instance's session is left alone"
    );
    let owned = engine.owned().await.unwrap();
    assert_eq!(owned.len(), 1);
}

#[tokio::test]
async fn a_session_of_somebody_else_is_never_removed() {
    let (fake, engine) = started(Faults::default()).await;
    fake.state().sessions = vec![session("ses_x", 0, "i2")];
    let foreign = SessionRef {
        id: "ses_x".to_owned(),
        directory: "/w".to_owned(),
        server: String::new(),
    };
    let error = engine
        .remove(attempt(1), Some(foreign), None)
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Refused(_)), "{error:?}");
    assert_eq!(fake.state().sessions.len(), 1);
    assert_eq!(fake.state().aborts, 0);
    // What does not exist is removed.
    let gone = SessionRef {
        id: "ses_gone".to_owned(),
        directory: "/w".to_owned(),
        server: String::new(),
    };
    engine.remove(attempt(2), Some(gone), None).await.unwrap();
    engine.remove(attempt(3), None, None).await.unwrap();
}

#[tokio::test]
async fn sessions_of_old_versions_carry_their_owner_in_the_title() {
    let faults = Faults {
        version: "1.3.0".to_owned(),
        drops_metadata: true,
        ..Faults::default()
    };
    let (fake, engine) = started(faults).await;
    let (first, _) = engine.open(opening(1)).await.unwrap();
    let (again, _) = engine.open(opening(1)).await.unwrap();
    let (other, _) = engine.open(opening(2)).await.unwrap();
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_eq!(fake.state().sessions.len(), 2);
}

#[tokio::test]
async fn a_prompt_that_was_taken_and_lost_is_reported_as_not_stored() {
    let (fake, engine) = started(Faults {
        lose_prompts: true,
        ..Faults::default()
    })
    .await;
    let (session, _) = engine.open(opening(1)).await.unwrap();
    engine.prompt(prompt(&session)).await.unwrap();
    let report = engine
        .read(session.clone(), vec!["msg_1".to_owned()])
        .await
        .unwrap();
    assert_eq!(
        (report.activity, report.last, report.prompts[0].stored),
        (Activity::Idle, LastMessage::None, false)
    );
    fake.state().faults.lose_prompts = false;
    engine.prompt(prompt(&session)).await.unwrap();
    let report = engine
        .read(session.clone(), vec!["msg_1".to_owned()])
        .await
        .unwrap();
    assert!(report.prompts[0].stored && report.prompts[0].complete && report.prompts[0].taken_up);
    fake.state().sessions.clear();
    assert_eq!(
        engine.read(session.clone(), vec![]).await,
        Err(EngineError::SessionGone)
    );
    assert_eq!(
        engine.prompt(prompt(&session)).await,
        Err(EngineError::SessionGone)
    );
}

#[tokio::test]
async fn an_abort_that_comes_too_early_is_repeated_until_the_run_has_ended() {
    let (fake, engine) = started(Faults {
        lag: Duration::from_secs(3),
        ..Faults::default()
    })
    .await;
    let (session, _) = engine.open(opening(1)).await.unwrap();
    // The fake's run begins so long after the prompt came to it, which is later than this.
    let began = Instant::now();
    engine.prompt(prompt(&session)).await.unwrap();
    engine.abort(session.clone()).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "the run had not begun yet"
    );
    let report = engine
        .read(session, vec!["msg_1".to_owned()])
        .await
        .unwrap();
    assert_eq!(report.activity, Activity::Idle);
    assert!(
        matches!(report.last, LastMessage::Assistant { error: Some(_), .. }),
        "{report:?}"
    );
    assert!(fake.state().aborts > 5);
}

#[tokio::test]
async fn slow_answers_are_no_failure_and_a_page_in_place_of_an_answer_says_nothing() {
    let faults = Faults {
        slow: Duration::from_millis(400),
        ..Faults::default()
    };
    let (fake, engine) = started(faults).await;
    let (session, _) = engine.open(opening(1)).await.unwrap();
    for page in ["/permission", "/question", "/session/status"] {
        fake.state().faults.web_pages = vec![page];
        let error = engine.read(session.clone(), vec![]).await.unwrap_err();
        assert!(error.is_transient(), "{page}: {error:?}");
    }
    // Without a list of sessions nobody knows whether there is one already.
    fake.state().faults.web_pages = vec!["/session"];
    let error = engine.open(opening(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    fake.state().faults.web_pages = vec![];
    let report = engine.read(session, vec![]).await.unwrap();
    assert_eq!(
        (report.activity, report.requests.len()),
        (Activity::Idle, 0)
    );
}

#[tokio::test]
async fn requests_of_child_sessions_are_found_and_those_of_others_are_not() {
    let (fake, engine) = started(Faults::default()).await;
    let (session, _) = engine.open(opening(1)).await.unwrap();
    engine.prompt(prompt(&session)).await.unwrap();
    {
        let mut state = fake.state();
        state
            .sessions
            .push(json!({"id": "ses_child", "parentID": session.id, "directory": "/w"}));
        state
            .sessions
            .push(json!({"id": "ses_grandchild", "parentID": "ses_child", "directory": "/w"}));
        state
            .sessions
            .push(json!({"id": "ses_other", "directory": "/w"}));
        // Its run was aborted; what it asked stays listed.
        state
            .sessions
            .push(json!({"id": "ses_child_aborted", "parentID": session.id, "directory": "/w"}));
        // OpenCode says busy of every session that waits for an answer.
        for of in ["ses_child", "ses_grandchild", "ses_other", "ses_gone"] {
            state.begins.insert(of.to_owned(), Instant::now());
        }
        state.permissions = ["ses_grandchild", "ses_other", "ses_gone", "ses_child_aborted"]
            .map(|of| json!({"id": format!("per_{of}"), "sessionID": of, "permission": "bash", "patterns": ["x"]}))
            .to_vec();
    }
    let report = engine.read(session, vec![]).await.unwrap();
    let ids: Vec<&str> = report
        .requests
        .iter()
        .map(|request| request.id.0.as_str())
        .collect();
    assert_eq!(ids, ["per_ses_grandchild"]);
}

#[tokio::test]
async fn a_stream_opens_breaks_and_opens_again_with_children_known() {
    let (fake, engine) = started(Faults::default()).await;
    let engine = Arc::new(engine);
    fake.state().sessions = vec![
        session("ses_a", 1, "i1"),
        json!({"id": "ses_child", "parentID": "ses_a"}),
    ];
    for round in 0..2 {
        let seen: Arc<Mutex<Vec<EngineSignal>>> = Arc::default();
        let (watching, sink) = (Arc::clone(&engine), Arc::clone(&seen));
        let watching = tokio::spawn(async move {
            watching
                .watch(Arc::new(move |signal| {
                    sink.lock().unwrap().push(signal);
                    true
                }))
                .await
        });
        until(|| !seen.lock().unwrap().is_empty()).await;
        assert!(matches!(seen.lock().unwrap()[0], EngineSignal::Open { .. }));
        fake.send(
            &json!({"directory": "/w", "payload": {"type": "session.status",
            "properties": {"sessionID": "ses_child", "status": {"type": "busy"}}}}),
        );
        until(|| seen.lock().unwrap().len() == 2).await;
        match &seen.lock().unwrap()[1] {
            EngineSignal::Session(told) => {
                assert_eq!(
                    (told.session.as_str(), told.child, &told.signal),
                    ("ses_a", true, &Signal::Busy),
                    "round {round}"
                );
            }
            other => panic!("{other:?}"),
        }
        fake.cut();
        let ended = tokio::time::timeout(Duration::from_secs(5), watching)
            .await
            .unwrap()
            .unwrap();
        assert!(ended.unwrap_err().is_transient());
    }
}

#[tokio::test]
async fn d11_sessions_share_one_stream_and_none_is_left_behind() {
    let (fake, engine) = started(Faults::default()).await;
    let engine = Arc::new(engine);
    for _ in 0..3 {
        let seen: Arc<Mutex<Vec<EngineSignal>>> = Arc::default();
        let (watching, sink) = (Arc::clone(&engine), Arc::clone(&seen));
        let watching = tokio::spawn(async move {
            watching
                .watch(Arc::new(move |signal| {
                    sink.lock().unwrap().push(signal);
                    true
                }))
                .await
        });
        until(|| !seen.lock().unwrap().is_empty()).await;
        for number in 1..=5 {
            let (session, _) = engine.open(opening(number)).await.unwrap();
            engine.prompt(prompt(&session)).await.unwrap();
            engine
                .read(session.clone(), vec!["msg_1".to_owned()])
                .await
                .unwrap();
            engine
                .remove(attempt(number), Some(session), None)
                .await
                .unwrap();
        }
        assert_eq!(fake.open_streams(), 1, "five sessions, one stream");
        watching.abort();
        until(|| fake.open_streams() == 0).await;
    }
}

#[tokio::test]
async fn nobody_listening_ends_the_stream() {
    let (_fake, engine) = started(Faults::default()).await;
    let ended =
        tokio::time::timeout(Duration::from_secs(5), engine.watch(Arc::new(|_| false))).await;
    assert_eq!(ended.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_path_map_that_is_not_true_is_refused() {
    let fake = Fake::start(Faults::default()).await;
    let ours = tempfile::tempdir().unwrap();
    let mut settings = settings(&fake.url);
    settings.path_map = Some(PathMapping {
        ours: ours.path().to_owned(),
        theirs: "/elsewhere".to_owned(),
    });
    let error = RemoteEngine::new(settings)
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, EngineError::Unusable(text) if text.contains("does not see")),
        "{error:?}"
    );
    assert_eq!(
        std::fs::read_dir(ours.path()).unwrap().count(),
        0,
        "the probe is removed"
    );
}

async fn until(fits: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !fits() {
        assert!(Instant::now() < end, "waited in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
