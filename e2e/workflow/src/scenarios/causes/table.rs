//! One row a cause: what is planted, and what the job's log must say of it.

use crate::harness::cluster::Role;

/// What is done to a job beside what its template says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing: it fails by itself.
    None,
    /// Its pod is deleted while it is awaited.
    DeleteAwaited,
    /// Its pod is evicted under a step.
    Evict,
    /// A pod of higher priority needs its place under a step.
    Preempt,
}

/// What must be said under a Role.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The Role.
    pub role: Role,
    /// Title of the one error that has a title.
    pub title: &'static str,
    /// Text in its message.
    pub words: &'static [&'static str],
}

/// A cause of failure.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// Its name, and the label of the job's pods.
    pub name: &'static str,
    /// The workflow's part: container, services, steps.
    pub job: &'static str,
    /// The template's `spec`; `ALL_CPU` and `MOST_CPU` are the node's.
    pub template: &'static str,
    /// What is done meanwhile.
    pub deed: Deed,
    /// How long a pod may take to start, in seconds, where that is not the default of 600.
    pub timeout: Option<u32>,
    /// How long the failing call may take, in seconds.
    pub within: u32,
    /// Lines that the log has, and how often at least.
    pub lines: &'static [(&'static str, usize)],
    /// What is said, under each Role where that differs.
    pub told: &'static [Told],
}

const fn stock(title: &'static str, words: &'static [&'static str]) -> Told {
    Told {
        role: Role::Stock,
        title,
        words,
    }
}

const fn shipped(title: &'static str, words: &'static [&'static str]) -> Told {
    Told {
        role: Role::Shipped,
        title,
        words,
    }
}

const JOB: &str = "container: {image: 'alpine:latest'}";
const STEP: &str = "{container: {image: 'alpine:latest'}, steps: [{run: echo ready; sleep 600}]}";
/// The whole of what a short grace and a busy machine take.
const GRACE: u32 = 90;
/// What is known at once.
const ONCE: u32 = 40;
/// Facts that every failure of a pod comes with.
const FACTS: &[(&str, usize)] = &[("pod | pod ", 1)];

const BASE: Cause = Cause {
    name: "",
    job: JOB,
    template: "{}",
    deed: Deed::None,
    timeout: None,
    within: GRACE,
    lines: &[],
    told: &[],
};

/// All causes that one node allows; those that take longest first.
pub const CAUSES: &[Cause] = &[
    Cause {
        name: "room",
        template: "{containers: [{name: $job, resources: {requests: {cpu: ALL_CPU}}}]}",
        timeout: Some(40),
        lines: &[
            ("Waiting for pod `", 2),
            ("pod | condition PodScheduled=False", 1),
        ],
        told: &[stock(
            "Not enough room",
            &[
                "not ready after 40 s",
                "Insufficient cpu",
                "giving runners a request of the job's size",
            ],
        )],
        ..BASE
    },
    Cause {
        name: "parent",
        template: "{volumes: [{name: cache, ephemeral: {volumeClaimTemplate: {spec: {\
            storageClassName: openebs-zfspv, accessModes: [ReadWriteOnce], \
            dataSource: {kind: PersistentVolumeClaim, name: cause-absent}, \
            resources: {requests: {storage: 1Gi}}}}}}]}",
        timeout: Some(30),
        lines: FACTS,
        told: &[
            shipped(
                "Parent missing",
                &[
                    "-cache` is to be cloned",
                    "cause-absent",
                    "create the parent",
                ],
            ),
            stock(
                "Claim not bound",
                &["not ready after 30 s", "lacks `list` on `events`"],
            ),
        ],
        ..BASE
    },
    Cause {
        name: "class",
        template: "{volumes: [{name: cache, ephemeral: {volumeClaimTemplate: {spec: {\
            storageClassName: cause-absent, accessModes: [ReadWriteOnce], \
            resources: {requests: {storage: 1Gi}}}}}}]}",
        timeout: Some(30),
        lines: FACTS,
        told: &[
            shipped(
                "Storage class missing",
                &["-cache` names a storage class", "cause-absent"],
            ),
            stock(
                "Claim not bound",
                &["not ready after 30 s", "lacks `list` on `events`"],
            ),
        ],
        ..BASE
    },
    Cause {
        name: "unbound",
        template: "{volumes: [{name: v, persistentVolumeClaim: {claimName: cause-unbound}}]}",
        timeout: Some(30),
        lines: FACTS,
        told: &[
            shipped(
                "Claim not bound",
                &["`cause-unbound` is not bound", "no storage class is set"],
            ),
            stock(
                "Claim not bound",
                &["not ready after 30 s", "lacks `list` on `events`"],
            ),
        ],
        ..BASE
    },
    Cause {
        name: "config-map",
        template: "{containers: [{name: $job, volumeMounts: [{name: v, mountPath: /v}]}], \
            volumes: [{name: v, configMap: {name: cause-absent}}]}",
        // A kubelet that is busy tells late.
        timeout: Some(60),
        within: 90,
        lines: FACTS,
        told: &[
            shipped(
                "Volume's source missing",
                &["configmap \"cause-absent\" not found"],
            ),
            stock(
                "Pod not ready in time",
                &[
                    "still preparing `job`",
                    "lacks `list` on `events`",
                    "kubectl describe pod",
                ],
            ),
        ],
        ..BASE
    },
    Cause {
        name: "webhook-down",
        timeout: Some(20),
        lines: &[("Cannot create pod `", 1)],
        told: &[stock(
            "Admission webhook unreachable",
            &[
                "`down.cause.example.com` does not answer",
                "repair the service",
            ],
        )],
        ..BASE
    },
    Cause {
        name: "scheduler",
        template: "{schedulerName: cause-absent}",
        timeout: Some(8),
        lines: FACTS,
        told: &[
            shipped(
                "Pod not ready in time",
                &["the scheduler has not looked at it; ", "`schedulerName`"],
            ),
            stock(
                "Pod not ready in time",
                &[
                    "the scheduler has not looked at it (",
                    "lacks `list` on `events`",
                ],
            ),
        ],
        ..BASE
    },
    Cause {
        name: "image",
        job: "container: {image: 'nowhere/absent:1'}",
        lines: &[
            ("(fails in 15 s unless it passes)", 1),
            ("pod | container job: waiting, ", 1),
        ],
        told: &[stock(
            "Image not found",
            &["`nowhere/absent:1`", "container `job`", "correct `image:`"],
        )],
        ..BASE
    },
    Cause {
        name: "size",
        template: "{containers: [{name: $job, resources: {requests: {cpu: '1000'}}}]}",
        lines: FACTS,
        told: &[stock(
            "Larger than its node",
            &["Insufficient cpu", "ask for less"],
        )],
        ..BASE
    },
    Cause {
        name: "selector",
        template: "{nodeSelector: {cause: absent}}",
        lines: FACTS,
        told: &[stock(
            "No node fits",
            &["node affinity/selector", "the same `nodeSelector`"],
        )],
        ..BASE
    },
    Cause {
        name: "claim",
        template: "{volumes: [{name: v, persistentVolumeClaim: {claimName: cause-absent}}]}",
        lines: FACTS,
        told: &[stock(
            "Claim missing",
            &["`cause-absent` does not exist", "create it"],
        )],
        ..BASE
    },
    Cause {
        name: "secret-key",
        template: "{containers: [{name: $job, env: [{name: T, valueFrom: {secretKeyRef: {\
            name: cause-secret, key: absent}}}]}]}",
        lines: FACTS,
        told: &[stock(
            "Container configuration",
            &["couldn't find key absent", "create the named object"],
        )],
        ..BASE
    },
    Cause {
        name: "evicted",
        job: STEP,
        deed: Deed::Evict,
        lines: FACTS,
        told: &[stock(
            "Pod evicted",
            &["as when a node is drained", "safe-to-evict"],
        )],
        ..BASE
    },
    Cause {
        name: "preempted",
        job: STEP,
        template: "{containers: [{name: $job, resources: {requests: {cpu: MOST_CPU}}}]}",
        deed: Deed::Preempt,
        lines: FACTS,
        told: &[stock(
            "Pod preempted",
            &["higher priority", "`priorityClassName`"],
        )],
        ..BASE
    },
    Cause {
        name: "deadline",
        job: STEP,
        template: "{activeDeadlineSeconds: 10}",
        lines: FACTS,
        told: &[stock(
            "Deadline exceeded",
            &["`activeDeadlineSeconds`", "raise or remove"],
        )],
        ..BASE
    },
    Cause {
        name: "memory-of-process",
        job: "{container: {image: 'alpine:latest'}, steps: [{run: tail /dev/zero}]}",
        template: "{containers: [{name: $job, resources: {limits: {memory: 64Mi}}}]}",
        told: &[stock(
            "Out of memory",
            &["a process of the step", "limit 64 MiB", "raise `resources"],
        )],
        ..BASE
    },
    Cause {
        name: "memory-of-action",
        job: "{container: {image: 'alpine:latest'}, steps: [\
            {uses: 'docker://alpine:latest', with: {args: tail /dev/zero}}]}",
        template: "{containers: [{name: $job, resources: {limits: {memory: 64Mi}}}]}",
        told: &[stock(
            "Out of memory",
            &[
                "container `job` was killed",
                "limit 64Mi",
                "raise `resources",
            ],
        )],
        ..BASE
    },
    Cause {
        name: "memory-of-service",
        // A service without a check is ready for the moment before it dies.
        job: "{container: {image: 'alpine:latest'}, services: {cache: {image: 'redis:latest', \
            options: '--health-cmd \"redis-cli ping\"'}}}",
        template: "{containers: [{name: $redis, command: [tail, /dev/zero], \
            resources: {limits: {memory: 64Mi}}}]}",
        lines: FACTS,
        told: &[stock(
            "Out of memory",
            &["container `redis` was killed", "limit 64Mi", "`$redis`"],
        )],
        ..BASE
    },
    Cause {
        name: "deleted",
        template: "{schedulerName: cause-absent}",
        deed: Deed::DeleteAwaited,
        lines: FACTS,
        told: &[stock("Pod deleted", &["by someone else", "audit log"])],
        ..BASE
    },
    Cause {
        name: "image-name",
        job: "container: {image: 'Alpine:latest'}",
        within: ONCE,
        lines: &[("pod | container job: waiting, InvalidImageName", 1)],
        told: &[stock(
            "Invalid image name",
            &["`Alpine:latest`", "correct `image:`"],
        )],
        ..BASE
    },
    Cause {
        name: "right",
        job: "{container: {image: 'alpine:latest'}, services: {cache: {image: 'redis:latest', env: {A: b}}}}",
        within: ONCE,
        told: &[Told {
            role: Role::Lacking,
            title: "Missing permission",
            words: &[
                "`create` `secrets`",
                "account `lacking-gha-rs-kube-mode`",
                "add the verb",
            ],
        }],
        ..BASE
    },
    Cause {
        name: "quota",
        template: "{priorityClassName: cause-quota}",
        within: ONCE,
        told: &[stock(
            "Quota exceeded",
            &["cause-quota", "limited: pods=0", "raise the ResourceQuota"],
        )],
        ..BASE
    },
    Cause {
        name: "quota-limits",
        template: "{priorityClassName: cause-quota-limits}",
        within: ONCE,
        told: &[stock(
            "Quota needs limits",
            &["must specify limits.cpu for: job", "give `$job`"],
        )],
        ..BASE
    },
    Cause {
        name: "limit-range",
        template: "{containers: [{name: $job, resources: {requests: {cpu: 5m}}}]}",
        within: ONCE,
        told: &[stock(
            "Limit range",
            &["minimum cpu usage per Container is 10m", "LimitRange"],
        )],
        ..BASE
    },
    Cause {
        name: "pod-security",
        template: "{hostNetwork: true}",
        within: ONCE,
        told: &[stock(
            "Pod security",
            &["host namespaces", "pod-security.kubernetes.io/enforce"],
        )],
        ..BASE
    },
    Cause {
        name: "policy",
        within: ONCE,
        told: &[stock(
            "Denied by policy",
            &["`cause-policy`", "pods need a cost centre", "exempt"],
        )],
        ..BASE
    },
    Cause {
        name: "webhook",
        within: ONCE,
        told: &[stock(
            "Denied by policy",
            &[
                "`denies.cause.example.com`",
                "no pods on a Saturday",
                "exempt",
            ],
        )],
        ..BASE
    },
];
