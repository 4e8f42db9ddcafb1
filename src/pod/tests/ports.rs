use proptest::prelude::*;

use super::{World, container, entry, request, service};
use crate::pod::ports::{Port, parse, reachable};

fn port(text: &str) -> Option<(Option<u16>, u16, String)> {
    Port::parse(text, "service `x`")
        .ok()
        .map(|port| (port.host, port.container, port.protocol))
}

#[test]
fn ports_are_read_as_the_official_hooks_read_them() {
    let found = |host, container, protocol: &str| Some((host, container, protocol.to_owned()));
    assert_eq!(port("8080:80"), found(Some(8080), 80, "TCP"));
    assert_eq!(port("8080:80/udp"), found(Some(8080), 80, "UDP"));
    assert_eq!(port("8080/udp"), found(None, 8080, "UDP"));
    assert_eq!(port("8080"), found(None, 8080, "TCP"));
    assert_eq!(port("127.0.0.1::7181"), found(None, 7181, "TCP"));
    assert_eq!(port("127.0.0.1:8080:80"), found(Some(8080), 80, "TCP"));
}

#[test]
fn what_is_no_port_is_refused_by_name() {
    for text in [
        "65536", "0", "1:65536", "65536:1", "1:", ":1", "1:1:1", "", "x", "-1", "1.5", "80-90",
    ] {
        for suffix in ["", "/tcp", "/udp"] {
            let text = format!("{text}{suffix}");
            let error = Port::parse(&text, "service `x`")
                .expect_err(&text)
                .to_string();
            assert!(
                error.contains(&format!("invalid container port: {text};")),
                "{error}"
            );
        }
    }
    for text in ["1/tcp/udp", "1:1/tcp/udp", "1/icmp", "1/"] {
        assert!(port(text).is_none(), "{text}");
    }
}

#[test]
fn a_port_is_answered_where_the_job_reaches_it() {
    let mut redis = service("redis");
    redis.port_mappings = vec!["6379".to_owned(), "16379:6380/udp".to_owned()];
    let request = request("node:22", vec![redis]);
    let plan = World::new("").job(&request);
    assert_eq!(
        plan.services[0].ports,
        [("6379", "6379"), ("6380", "6380")]
            .map(|(port, at)| (port.to_owned(), at.to_owned()))
            .into()
    );
    assert!(!plan.pod.to_string().contains("hostPort"));

    let world = World::new("metadata: {annotations: {arc-hook/host-ports: 'true'}}");
    let plan = world.job(&request);
    assert_eq!(plan.services[0].ports["6380"], "16379");
    let ports = &container(&plan.pod, "redis")["ports"];
    assert_eq!(entry(ports, "protocol", "UDP")["hostPort"], 16379);
}

#[test]
fn a_port_named_twice_is_one() {
    let ports = parse(&["80".to_owned(), "8080:80".to_owned()], "x").expect("ports");
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].host, Some(8080));
}

proptest! {
    #[test]
    fn any_pair_of_ports_is_read_back(host in 1_u16.., container in 1_u16..) {
        let ports = parse(&[format!("{host}:{container}")], "x").expect("ports");
        prop_assert_eq!(ports[0].host, Some(host));
        prop_assert_eq!(&reachable(&ports, false)[&container.to_string()], &container.to_string());
        prop_assert_eq!(&reachable(&ports, true)[&container.to_string()], &host.to_string());
    }

    #[test]
    fn no_text_is_read_as_a_port_out_of_range(text in ".{0,20}") {
        if let Ok(port) = Port::parse(&text, "x") {
            prop_assert!(port.container > 0);
        }
    }
}
