use super::*;
use crate::load::Assurance;

pub(super) fn settings(scenario: Scenario) -> Settings {
    Settings {
        scenario,
        connections: 5,
        producers: 3,
        workers: 40,
        depth: 2,
        body_bytes: 64,
        jobs: 7,
        keep: false,
        count: None,
        duration: Duration::from_secs(1),
        warm_up: Duration::ZERO,
        rate: None,
        threads: 1,
        queues: 1,
        window: None,
        bindings: 0,
        promise: Some(Promise {
            assurance: Assurance::AtLeast,
            persistent: true,
        }),
        dialect: Dialect::Qos,
    }
}

fn load(scenario: Scenario) -> Load {
    let settings = settings(scenario);
    let (roles, queues) = settings.roles();
    settings.load(roles, queues, Stop::Finished)
}

#[test]
fn each_pair_has_a_queue_of_its_own() {
    let seats = load(Scenario::OneToOne).seats();
    let of = |role| -> Vec<u32> {
        let seats = seats.iter().filter(|seat| seat.role == role);
        seats.map(|seat| seat.queue).collect()
    };
    assert_eq!(of(Role::Produce), [0, 1, 2]);
    assert_eq!(of(Role::Subscribe(Interest::Queue)), [0, 1, 2]);
}

#[test]
fn a_window_is_four_bursts_a_publisher_and_one_for_a_fan_out() {
    assert_eq!(load(Scenario::OneToOne).window, 4 * 2 * 3);
    assert_eq!(load(Scenario::Shared).window, 4 * 2 * 3);
    assert_eq!(load(Scenario::FanOut).window, 2 * 40);
    let given = Settings {
        window: Some(3),
        ..settings(Scenario::FanOut)
    };
    let (roles, queues) = given.roles();
    assert_eq!(given.load(roles, queues, Stop::Finished).window, 3 * 40);
}

#[test]
fn sockets_are_those_of_the_largest_load() {
    for (scenario, sockets) in [
        (Scenario::Publish, 5),
        (Scenario::OneToOne, 6),
        (Scenario::FanIn, 4),
        (Scenario::FanOut, 41),
        (Scenario::Shared, 43),
        (Scenario::Offline, 40),
        (Scenario::Idle, 5),
    ] {
        assert_eq!(settings(scenario).sockets(), sockets, "{scenario:?}");
        if !matches!(scenario, Scenario::Offline) {
            assert_eq!(load(scenario).roles.len() as u64, sockets, "{scenario:?}");
        }
    }
}

#[test]
fn labels_say_who_does_what_at_which_promise() {
    let label = |scenario| settings(scenario).label();
    assert_eq!(
        label(Scenario::Publish),
        "publish QoS 1, 5 connections, 2 deep, 64 B"
    );
    assert_eq!(
        label(Scenario::OneToOne),
        "one-to-one QoS 1, persistent, 3 pairs, 2 deep, 64 B"
    );
    assert_eq!(
        label(Scenario::Offline),
        "offline QoS 1, 3 publishers, 2 deep, 7 messages to 40 sessions, 64 B"
    );
    let paced = |rate| Settings {
        rate: Some(rate),
        ..settings(Scenario::Publish)
    };
    let ending = |rate| paced(rate).label().rsplit(", ").next().map(str::to_owned);
    assert_eq!(ending(1234.56).as_deref(), Some("1235/s"));
    assert_eq!(ending(31.0823).as_deref(), Some("31.08/s"));
    assert_eq!(ending(2.0).as_deref(), Some("2/s"));
    let split = Settings {
        promise: None,
        rate: Some(1000.0),
        ..settings(Scenario::Split)
    };
    assert_eq!(
        split.label(),
        "split, 3 producers, 2 deep, 40 workers, 64 B, 1000/s"
    );
}
