use serde_json::json;

use super::{FOUNDING, World, request};
use crate::pod::Template;

fn error(text: &str) -> String {
    Template::parse(text).expect_err(text).to_string()
}

#[test]
fn what_is_no_template_is_refused_as_the_official_hooks_do() {
    for text in ["", "# nothing\n", "5", "text", "- a\n- b\n", "~"] {
        assert!(error(text).contains("write a mapping"), "{}", error(text));
    }
}

#[test]
fn broken_yaml_is_refused_with_line_and_column() {
    let text = error("metadata:\n  labels: {a: b\nspec: {}\n");
    assert!(text.starts_with("parse the hook template: "), "{text}");
    assert!(text.contains("line"), "{text}");
    let twice = error("spec:\n  restartPolicy: Never\n  restartPolicy: Always\n");
    assert!(twice.contains("restartPolicy"), "{twice}");
}

#[test]
fn errors_name_their_place() {
    assert_eq!(
        error("spec: {}\ntemplate: {}\n"),
        "read the hook template, line 2 column 1: unknown key `template`; a template has \
         `metadata` and `spec` of a pod at its top level"
    );
    assert_eq!(
        error("spec:\n  containers:\n    - image: x\n"),
        "read the hook template, line 3 column 7: an element of `containers` has no `name`; give \
         each element its own; lists are merged by it"
    );
    assert!(error("metadata:\n  labels:\n    a: 5\n").contains("line 3 column 5"));
    assert!(error("spec: []").contains("`spec` is a list"));
    assert!(error("spec:\n  volumes: {}\n").contains("line 2 column 3: `volumes` is a mapping"));
    assert!(
        error("spec:\n  containers:\n  - name: $job\n    env:\n    - value: x\n")
            .contains("line 5")
    );
}

#[test]
fn annotations_that_mean_nothing_are_refused_with_the_remedy() {
    for (name, value) in [
        ("run-as", "root"),
        ("run-as", "-1"),
        ("run-as", "1:"),
        ("run-as", "99999999999"),
        ("security", "baseline"),
        ("allow-user-option", "yes"),
        ("passwd", "1"),
        ("host-ports", ""),
        ("max-cpu", "many"),
        ("max-cpu", "0"),
        ("max-memory", "8GB"),
    ] {
        let text = error(&format!(
            "metadata:\n  annotations:\n    arc-hook/{name}: '{value}'\n"
        ));
        assert!(text.contains("line 3 column 5"), "{text}");
        assert!(
            text.contains(&format!("`arc-hook/{name}` is `{value}`")),
            "{text}"
        );
    }
}

#[test]
fn an_unknown_annotation_of_ours_is_named_and_others_are_not() {
    let world = World::new(
        "metadata: {annotations: {arc-hook/runas: runner, arc-hook/retain-ttl: 1h, other/x: y}}",
    );
    let warnings = world.job(&request("node:22", Vec::new())).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("arc-hook/runas"));
}

#[test]
fn a_mode_with_a_leading_zero_is_octal() {
    let world = World::new("spec: {volumes: [{name: a, configMap: {name: a, defaultMode: 0644}}]}");
    let plan = world.job(&request("node:22", Vec::new()));
    let volumes = plan.pod["spec"]["volumes"].to_string();
    assert!(volumes.contains("\"defaultMode\":420"), "{volumes}");
}

#[test]
fn what_the_api_server_says_of_a_field_is_traced_to_the_file() {
    let text = "metadata:\n  labels: {a: b}\nspec:\n  containers:\n    - name: side\n      image: x\n    - name: $job\n      imagePullPolicies: Always\n      env:\n        - name: A\n          valeu: b\n  hostUser: false\n";
    let world = World::new(text);
    let plan = world.job(&request("node:22", Vec::new()));
    let locate = |path: &str| {
        world
            .template
            .locate(&plan.pod, path)
            .map(|at| (at.line, at.column))
    };
    assert_eq!(locate("spec.containers[0].imagePullPolicies"), Some((8, 7)));
    assert_eq!(
        plan.pod["spec"]["containers"][0]["env"][2],
        json!({"name": "A", "valeu": "b"})
    );
    assert_eq!(locate("spec.containers[0].env[2].valeu"), Some((11, 11)));
    assert_eq!(locate("spec.containers[1].image"), Some((6, 7)));
    assert_eq!(locate("spec.hostUser"), Some((12, 3)));
    assert_eq!(locate("spec.containers[0].image"), None);
    assert_eq!(locate("spec.containers[9].image"), None);
}

#[test]
fn a_message_that_names_several_fields_is_traced_for_those_of_the_template() {
    let world = World::new("spec:\n  containers:\n    - name: $job\n      tty: 5\n      oops: x\n");
    let plan = world.job(&request("node:22", Vec::new()));
    let message = "strict decoding error: unknown field \"spec.containers[0].oops\", unknown field \
                   \"spec.other\"; Pod \"x\" is invalid: spec.containers[0].tty: Invalid value: 5.";
    let found: Vec<_> = world
        .template
        .blamed(&plan.pod, message)
        .into_iter()
        .map(|(field, at)| format!("{field} {at}"))
        .collect();
    assert_eq!(
        found,
        [
            "spec.containers[0].oops line 5 column 7",
            "spec.containers[0].tty line 4 column 7"
        ]
    );
}

#[test]
fn the_template_of_the_founding_document_is_read() {
    let template = Template::parse(FOUNDING).expect("a template");
    assert_eq!(template.metadata("labels"), [("labeled-by", "extension")]);
    assert_eq!(template.containers("containers").count(), 1);
}
