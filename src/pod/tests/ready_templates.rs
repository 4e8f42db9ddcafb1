//! The templates that are handed out.

use insta::assert_yaml_snapshot;

use super::{World, manifests, request, service};
use crate::pod::container_step;
use crate::pod::yaml;
use crate::retain::{Policy, When};

const CONAN_ZFS: &str = include_str!("../../../hook-templates/conan-zfs.yaml");
const CONAN_LINES: &str = include_str!("../../../hook-templates/conan-lines.yaml");
const CONAN_RETAIN: &str = include_str!("../../../hook-templates/conan-retain.yaml");
const MINIMAL: &str = include_str!("../../../hook-templates/minimal.yaml");
const RESTRICTED: &str = include_str!("../../../hook-templates/restricted.yaml");

/// What the runner pod finds as a file: the key `content` of the `ConfigMap`.
fn world(config_map: &str) -> World {
    let (map, _) = yaml::read(config_map).expect("a ConfigMap");
    World::new(map["data"]["content"].as_str().expect("a template"))
}

#[test]
fn the_conan_template_gives_each_job_a_clone() {
    let plan = world(CONAN_ZFS).job(&request("gcc-conan:12", Vec::new()));
    assert_yaml_snapshot!(manifests(&plan));
    assert_eq!(plan.warnings, Vec::<String>::new());
}

/// But for the annotation its pods are those of the template with a fixed parent.
#[test]
fn the_template_with_lines_gives_each_job_a_cache() {
    let world = world(CONAN_LINES);
    let cache = &world.template.settings().caches["conan-home"];
    assert_eq!((cache.parents.len(), cache.keep()), (3, 3));
    assert!(cache.promote.is_some() && !cache.allow.is_empty());
    let plan = world.job(&request("gcc-conan:12", Vec::new()));
    assert_eq!(plan.warnings, Vec::<String>::new());
    let fixed = self::world(CONAN_ZFS).job(&request("gcc-conan:12", Vec::new()));
    assert_eq!(plan.pod["spec"], fixed.pod["spec"]);
}

#[test]
fn the_template_that_keeps_failed_jobs_makes_the_same_pods() {
    let world = world(CONAN_RETAIN);
    let kept = Policy {
        when: When::OnFailure,
        ..Policy::default()
    };
    assert_eq!(
        world.template.settings().retain,
        kept,
        "it spells the defaults out"
    );
    let plan = world.job(&request("gcc-conan:12", Vec::new()));
    assert_eq!(plan.warnings, Vec::<String>::new());
    let fixed = self::world(CONAN_ZFS).job(&request("gcc-conan:12", Vec::new()));
    assert_eq!(plan.pod["spec"], fixed.pod["spec"]);
}

#[test]
fn the_minimal_template_gives_the_runners_user() {
    let plan = world(MINIMAL).job(&request("gcc-conan:12", Vec::new()));
    assert_yaml_snapshot!(manifests(&plan));
    assert_eq!(plan.warnings, Vec::<String>::new());
}

/// What the API server admits in a namespace that enforces `restricted`.
#[test]
fn the_restricted_template_restricts_jobs_services_and_actions() {
    let world = world(RESTRICTED);
    let plan = world.job(&request("gcc-conan:12", vec![service("redis")]));
    assert_yaml_snapshot!("restricted_job", manifests(&plan));
    assert_eq!(plan.warnings, Vec::<String>::new());
    let step = container_step(&world.inputs(), &service("alpine"), None);
    assert_yaml_snapshot!("restricted_step", manifests(&step.expect("a pod")));
}
