use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::pod::names::{
    ServiceName, derived, is_dns_label, job_pod, label, of_image, secret, services, step_pod,
};

fn containers(images: &[&str]) -> Vec<String> {
    services(images, &BTreeSet::from(["job".to_owned()]))
        .expect("names")
        .into_iter()
        .map(|name| name.container)
        .collect()
}

#[test]
fn pods_and_secrets_are_named_as_the_official_hooks_name_them() {
    assert_eq!(job_pod("test"), "test-workflow");
    let long = "a".repeat(63);
    assert_eq!(job_pod(&long), format!("{}-workflow", "a".repeat(54)));
    assert_eq!(
        step_pod(&long, "12345678"),
        format!("{}-step-12345678", "a".repeat(49))
    );
    assert_eq!(
        secret(&long, "12345678"),
        format!("{}-secret-12345678", "a".repeat(47))
    );
    assert_eq!(label("test"), "test");
}

#[test]
fn a_name_that_no_api_server_takes_is_replaced_by_one_that_it_does() {
    // Cut at 54 characters it would end in `.-workflow`.
    let dotted = format!("{}.runner", "a".repeat(53));
    let name = job_pod(&dotted);
    assert!(is_dns_label(&name), "{name}");
    assert!(name.starts_with("aaaa") && name.ends_with("-workflow"));
    assert_ne!(job_pod("a_b"), job_pod("a.b"));
    let long = "a".repeat(100);
    assert_eq!(label(&long).len(), 63);
}

#[test]
fn services_are_named_after_the_last_segment_of_their_image() {
    for (image, name) in [
        ("public.ecr.aws/localstack/localstack", "localstack"),
        ("public.ecr.aws/localstack/localstack:latest", "localstack"),
        ("url/of/my_super/image:tag", "image"),
        ("postgres", "postgres"),
        ("postgres:latest", "postgres"),
        ("localhost:5000/redis:7", "redis"),
        ("ghcr.io/octo/my_Service:1", "my-service"),
        ("redis@sha256:d2a5b8d0", "redis"),
        ("redis:7@sha256:d2a5b8d0", "redis"),
        ("octo/node.js", "node-js"),
    ] {
        assert_eq!(of_image(image).expect("a name"), name, "{image}");
    }
}

#[test]
fn an_image_without_a_name_is_refused_as_the_official_hooks_do() {
    for image in [
        "",
        ":latest",
        "localstack/localstack/:latest",
        "octo/",
        "@sha256:00",
    ] {
        let error = of_image(image).expect_err(image).to_string();
        assert!(
            error.starts_with(&format!("Image definition '{image}' is invalid")),
            "{error}"
        );
    }
}

#[test]
fn services_of_one_image_are_numbered() {
    assert_eq!(containers(&["redis", "redis"]), ["redis-0", "redis-1"]);
    assert_eq!(
        containers(&["redis:6", "postgres", "octo/redis:7"]),
        ["redis-0", "postgres", "redis-1"]
    );
}

#[test]
fn a_number_never_takes_the_name_of_another_image() {
    let names = containers(&["redis", "redis", "octo/redis-0"]);
    assert_eq!(names[2], "redis-0");
    assert_eq!(names[1], "redis-1");
    assert!(names[0].starts_with("redis-0-"), "{}", names[0]);
}

#[test]
fn a_service_called_job_is_not_the_job() {
    let names = services(&["octo/job"], &BTreeSet::from(["job".to_owned()])).expect("names");
    assert_eq!(names[0].image, "job");
    assert!(
        names[0].container.starts_with("job-"),
        "{}",
        names[0].container
    );
}

#[test]
fn derived_characters_depend_on_nonce_and_purpose() {
    assert_eq!(derived("a", "pod").len(), 8);
    assert_ne!(derived("a", "pod"), derived("a", "secret"));
    assert_ne!(derived("a", "pod"), derived("b", "pod"));
}

proptest! {
    #[test]
    fn every_pod_name_gives_dns_labels(name in ".{0,300}") {
        for made in [job_pod(&name), step_pod(&name, "0a1b2c3d"), secret(&name, "0a1b2c3d")] {
            prop_assert!(is_dns_label(&made), "{made}");
        }
        let value = label(&name);
        prop_assert!(value.len() <= 63 && !value.is_empty());
    }

    #[test]
    fn official_names_stay_where_they_are_valid(name in "[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?") {
        let cut: String = name.chars().take(54).collect();
        prop_assert_eq!(job_pod(&name), format!("{}-workflow", cut));
        prop_assert_eq!(label(&name), name);
    }

    #[test]
    fn different_invalid_names_stay_different(one in "[A-Z._]{1,30}", other in "[A-Z._]{1,30}") {
        prop_assume!(one != other);
        prop_assert_ne!(job_pod(&one), job_pod(&other));
    }

    #[test]
    fn any_image_gives_a_dns_label_or_an_error(image in ".{0,200}") {
        if let Ok(name) = of_image(&image) {
            prop_assert!(is_dns_label(&name), "{name}");
            prop_assert_eq!(of_image(&image).expect("stable"), name);
        }
    }

    #[test]
    fn services_have_distinct_names_that_none_has_taken(
        images in prop::collection::vec("(ghcr.io/)?(octo/)?(redis|redis-0|redis-1|job|My_App|a{80})(:[0-9]|@sha256:00)?", 0..8),
    ) {
        let taken = BTreeSet::from(["job".to_owned(), "default".to_owned()]);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let names: Vec<ServiceName> = services(&images, &taken).expect("names");
        let distinct: BTreeSet<_> = names.iter().map(|name| name.container.clone()).collect();
        prop_assert_eq!(distinct.len(), images.len());
        prop_assert!(distinct.is_disjoint(&taken));
        for name in &names {
            prop_assert!(is_dns_label(&name.container));
        }
    }
}
