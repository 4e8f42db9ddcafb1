use crate::pod::{Template, template_text};

fn error(file: &str) -> String {
    let found = match template_text(file) {
        Ok(found) => found,
        Err(error) => return error.to_string(),
    };
    Template::parse(&found.text).expect_err(file).to_string()
}

#[test]
fn a_bare_template_is_taken_as_it_is() {
    let text = "# a template\nspec:\n  restartPolicy: Never\n";
    let found = template_text(text).expect("a template");
    assert_eq!(found.text, text);
    assert_eq!(found.counted_from, None);
}

#[test]
fn a_config_map_gives_the_template_that_the_runner_pod_would_find_as_a_file() {
    let template = "spec:\n\n  containers:\n  - name: $job\n    image: x\n";
    let bare = Template::parse(template).expect("a template");
    let indented = template.replace('\n', "\n    ");
    for file in [
        format!("kind: ConfigMap\ndata:\n  content: |\n    {indented}\n"),
        format!("kind: ConfigMap\ndata:\n  any.yaml: |-\n    {indented}\nmetadata: {{name: x}}\n"),
        format!("kind: ConfigMap\ndata:\n  content: {template:?}\n"),
    ] {
        let found = template_text(&file).expect("a ConfigMap");
        let found = Template::parse(&found.text).expect("a template");
        assert_eq!(found.spec(), bare.spec(), "{file}");
    }
}

#[test]
fn errors_within_a_config_map_name_the_line_and_column_of_the_file() {
    let file =
        "kind: ConfigMap\ndata:\n  content: |\n    metadata:\n\n      labels:\n        a: 5\n";
    assert!(error(file).contains("line 7 column 9"), "{}", error(file));
    let broken = "kind: ConfigMap\ndata:\n  content: |\n    spec:\n      - a: b\n     c\n";
    assert!(error(broken).contains("line 6"), "{}", error(broken));
}

#[test]
fn a_template_in_quotes_has_its_lines_counted_from_its_key() {
    let file = "kind: ConfigMap\ndata:\n  content: \"metadata:\\n  labels:\\n    a: 5\\n\"\n";
    let found = template_text(file).expect("a ConfigMap");
    assert_eq!(found.counted_from.as_deref(), Some("content"));
    assert!(error(file).contains("line 3 column 5"), "{}", error(file));
    let marked = "kind: ConfigMap\ndata:\n  content: |\n    ---\n    metadata: {labels: {a: 5}}\n";
    assert!(error(marked).contains("line 2"), "{}", error(marked));
}

#[test]
fn a_config_map_without_exactly_one_template_is_refused_with_the_remedy() {
    let two = error("kind: ConfigMap\ndata:\n  a: x\n  b: y\n");
    assert!(two.contains("line 2 column 1"), "{two}");
    assert!(two.contains("has 2 keys"), "{two}");
    assert!(error("kind: ConfigMap\n").contains("has 0 keys"));
    let map = error("kind: ConfigMap\ndata:\n  content:\n    spec: {}\n");
    assert!(map.contains("line 3 column 3"), "{map}");
    assert!(map.contains("`content: |`"), "{map}");
}
