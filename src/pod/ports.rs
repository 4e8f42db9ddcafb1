//! `ports:` of the workflow.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerPort;

use super::error::SpecError;

/// One entry of `ports:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Port in the container.
    pub container: u16,
    /// Port of the host that was asked for.
    pub host: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl Port {
    /// Reads `[[address:]host:]container[/protocol]`. `name` is the container's, for the error.
    pub fn parse(text: &str, name: &str) -> Result<Self, SpecError> {
        let refuse = |remedy| SpecError::Port {
            container: name.to_owned(),
            port: text.to_owned(),
            remedy,
        };
        let shape = "write `container`, `host:container` or `host:container/protocol`, with ports from 1 to 65535";
        let (ports, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
        let protocol = protocol.to_ascii_uppercase();
        if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
            return Err(refuse("the protocol is `tcp`, `udp` or `sctp`"));
        }
        if ports.contains('-') {
            return Err(refuse("list each port of a range"));
        }
        let number = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| text.parse::<u16>().ok().filter(|port| *port > 0))
                .flatten()
                .ok_or_else(|| refuse(shape))
        };
        let (host, container) = match ports.rsplit_once(':') {
            None => (None, ports),
            Some((host, container)) => {
                // An address of the host means nothing in a pod; Docker lets its port be empty.
                let host = match host.rsplit_once(':') {
                    Some((address, port)) if is_address(address) => {
                        (!port.is_empty()).then(|| number(port)).transpose()?
                    }
                    _ => Some(number(host)?),
                };
                (host, container)
            }
        };
        Ok(Self {
            container: number(container)?,
            host,
            protocol,
        })
    }

    /// The port of a pod's container. It takes a port of the node only where that is wanted:
    /// two jobs on one node would ask for the same.
    fn manifest(&self, host_ports: bool) -> ContainerPort {
        ContainerPort {
            container_port: self.container.into(),
            host_port: self.host.filter(|_| host_ports).map(Into::into),
            protocol: Some(self.protocol.clone()),
            ..Default::default()
        }
    }
}

fn is_address(text: &str) -> bool {
    text.trim_matches(['[', ']'])
        .parse::<std::net::IpAddr>()
        .is_ok()
}

/// All ports of a container, each once.
pub fn parse(texts: &[String], name: &str) -> Result<Vec<Port>, SpecError> {
    let mut ports: Vec<Port> = Vec::new();
    for text in texts.iter().filter(|text| !text.trim().is_empty()) {
        let port = Port::parse(text, name)?;
        let known = ports
            .iter_mut()
            .find(|known| (known.container, &known.protocol) == (port.container, &port.protocol));
        match known {
            Some(known) => known.host = known.host.or(port.host),
            None => ports.push(port),
        }
    }
    Ok(ports)
}

/// The ports of a pod's container; absent when there are none.
#[must_use]
pub fn manifest(ports: &[Port], host_ports: bool) -> Option<Vec<ContainerPort>> {
    let ports: Vec<ContainerPort> = ports.iter().map(|port| port.manifest(host_ports)).collect();
    (!ports.is_empty()).then_some(ports)
}

/// What the workflow reads as `job.services.<x>.ports`: where the job reaches each port. Containers
/// of one pod share their addresses, so that is the container's own port; only a port of the
/// node, asked for and granted, is answered as such.
#[must_use]
pub fn reachable(ports: &[Port], host_ports: bool) -> BTreeMap<String, String> {
    ports
        .iter()
        .map(|port| {
            let reachable = port.host.filter(|_| host_ports).unwrap_or(port.container);
            (port.container.to_string(), reachable.to_string())
        })
        .collect()
}
