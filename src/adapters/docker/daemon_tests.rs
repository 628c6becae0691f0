//! How an inspection is read, and answers that Podman gives for a moment only.

use std::cell::Cell;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, EndpointSettings, NetworkSettings};

use super::{passing_words, state};

#[test]
fn a_worker_has_the_address_of_the_network_that_is_set_or_else_of_any() {
    let endpoint = |address: &str| EndpointSettings {
        ip_address: Some(address.to_owned()),
        ..EndpointSettings::default()
    };
    let networks = [
        ("cut", endpoint("")),
        ("old", endpoint("10.0.0.2")),
        ("new", endpoint("10.0.1.2")),
    ];
    let mut found = ContainerInspectResponse::default();
    let with = |count: usize| NetworkSettings {
        networks: Some(
            networks[..count]
                .iter()
                .map(|(name, endpoint)| ((*name).to_owned(), endpoint.clone()))
                .collect(),
        ),
        ..NetworkSettings::default()
    };
    for (count, expected) in [(1, None), (2, Some("10.0.0.2")), (3, Some("10.0.1.2"))] {
        found.network_settings = Some(with(count));
        let address = state(found.clone(), "new").address;
        assert_eq!(
            address.map(|address| address.to_string()).as_deref(),
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_strange_word_is_asked_for_again() {
    let asked = Cell::new(0);
    let answer = passing_words(|| {
        asked.set(asked.get() + 1);
        let strange = asked.get() < 4;
        async move {
            if strange {
                let message = "unknown variant `stopped`".to_owned();
                Err(Error::JsonDataError { message, column: 1 })
            } else {
                Ok("exited")
            }
        }
    });
    assert_eq!(answer.await.ok(), Some("exited"));
    assert_eq!(asked.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn every_other_failure_is_told_at_once() {
    let asked = Cell::new(0);
    let answer = passing_words(|| {
        asked.set(asked.get() + 1);
        async { Err::<(), _>(Error::RequestTimeoutError) }
    });
    assert!(matches!(answer.await, Err(Error::RequestTimeoutError)));
    assert_eq!(asked.get(), 1);
}
