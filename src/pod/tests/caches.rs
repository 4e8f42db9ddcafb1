//! The annotations `arc-hook/cache.<volume>`.

use crate::pod::Template;

const TEMPLATE: &str = r#"metadata:
  annotations:
    arc-hook/cache.conan-home: |
      parents: ["{repository}/{base_ref}"]
      keep: 3
spec:
  volumes:
  - name: conan-home
    ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1Gi}}}}}
  - name: scratch
    emptyDir: {}
"#;

fn refusal(from: &str, to: &str) -> String {
    Template::parse(&TEMPLATE.replace(from, to))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_cache_is_read_with_its_volume() {
    let template = Template::parse(TEMPLATE).unwrap();
    let policy = &template.settings().caches["conan-home"];
    assert_eq!(policy.parents.len(), 1);
    assert!(template.settings().unknown.is_empty());
}

#[test]
fn what_is_wrong_in_an_annotation_is_found_in_the_file() {
    assert_eq!(
        refusal("keep: 3", "kepe: 3"),
        "read the hook template, line 5 column 7: annotation `arc-hook/cache.conan-home`: unknown \
         key `kepe`; use parents, promote, keep, allow, via, snapshot-class, verify, trusted-parents-only, shared"
    );
    let within = refusal("{base_ref}", "{branch}");
    assert!(within.contains("line 4 column 17"), "{within}");
}

#[test]
fn in_a_value_that_is_no_block_the_place_is_the_annotation_and_what_is_within() {
    let message = Template::parse(
        "metadata: {annotations: {arc-hook/cache.v: \"keep: 1\\nkepe: 2\"}}\nspec: {}",
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("line 1 column 26"), "{message}");
    assert!(
        message.contains("line 2 column 1 of its value"),
        "{message}"
    );
}

#[test]
fn a_cache_needs_a_volume_that_a_claim_can_be_made_for() {
    let missing = refusal("cache.conan-home", "cache.other");
    assert!(missing.contains("line 3 column 5"), "{missing}");
    assert!(missing.contains("no volume `other`"), "{missing}");
    let scratch = refusal("cache.conan-home", "cache.scratch");
    assert!(scratch.contains("no generic ephemeral volume"), "{scratch}");
}
