//! Who jobs and actions run as, and what they can do to each other's files.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use super::{Acting, Stage};
use crate::harness::runner::Options;
use crate::runner::guid::guid;

/// What is shown of each user.
struct User {
    /// `arc-hook/run-as`.
    run_as: &'static str,
    /// As `id -u`, a colon and `id -g` print it.
    ids: &'static str,
    name: &'static str,
}

/// The runner's user in an image of root's.
pub fn runner(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let user = User {
            run_as: "runner",
            ids: "1001:1001",
            name: "runner",
        };
        let mut job = shared_work(&user);
        let hint = "Hint: this step ran as user 1001 by `arc-hook/run-as`";
        add_steps(
            &mut job,
            json!([
                {"name": "installs as on its own machine", "run": "apt-get install --yes hello",
                 "continue-on-error": true,
                 "driver": {"fails": true, "expect": [hint, "only root installs packages"]}},
                {"name": "writes where only root does", "run": "mkdir /opt/tool",
                 "continue-on-error": true,
                 "driver": {"fails": true, "expect": [hint, "write below `$HOME`"]}},
                {"name": "so does an action", "uses": "docker://workbench:latest",
                 "with": {"entrypoint": "/bin/mkdir", "args": "/opt/tool"}, "continue-on-error": true,
                 "driver": {"fails": true, "expect": [hint]}},
                {"name": "fails for another reason", "run": "exit 5", "continue-on-error": true,
                 "driver": {"exit": 5, "forbid": ["Hint:"]}},
            ]),
        );
        run(&stage, &user, &job).await
    })
}

/// The image's own user, who is root.
pub fn root(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let user = User {
            run_as: "image",
            ids: "0:0",
            name: "root",
        };
        let mut job = shared_work(&user);
        job["driver"]["prepare-job"] =
            json!({"expect": ["the job runs as user 0 of its image and the runner as user 1001"]});
        run(&stage, &user, &job).await
    })
}

/// With `run-as: image` a user whom the runner does not know.
pub fn of_the_image(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let options = Options::of_template("metadata: {annotations: {arc-hook/run-as: image}}\n");
        let job = stage.read("foreign-user.yaml")?;
        stage.run_job(&job, &options).await?;
        Ok(())
    })
}

/// Any other.
pub fn number(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let user = User {
            run_as: "4242:4343",
            ids: "4242:4343",
            name: "runner",
        };
        let job = shared_work(&user);
        run(&stage, &user, &job).await
    })
}

async fn run(stage: &Stage, user: &User, job: &Value) -> anyhow::Result<()> {
    let run_as = user.run_as;
    let template = format!(
        "metadata: {{annotations: {{arc-hook/run-as: '{run_as}', arc-hook/passwd: 'true'}}}}\n"
    );
    let options = Options::of_template(template);
    stage.run_job(&job.to_string(), &options).await?;
    Ok(())
}

/// A checkout by an action, a build by a script, a container action, and the
/// end of the first, all upon the same files.
fn shared_work(user: &User) -> Value {
    let User { ids, name, .. } = user;
    // Git trusts no directory of another, as the workspace is to all but the
    // runner's user; a checkout tells it to.
    let trust = if user.run_as == "runner" {
        ""
    } else {
        "git('config', '--global', '--add', 'safe.directory', process.cwd());"
    };
    let git = "const git = (...args) => require('child_process').execFileSync('git', args, {stdio: 'inherit'});\n";
    let main = format!(
        "{git}const fs = require('fs');
         {trust}
         git('init', '-q', '.');
         fs.mkdirSync('src', {{mode: 0o755}});
         fs.writeFileSync('src/text', 'checked out\\n', {{mode: 0o644}});
         git('add', '.');"
    );
    let post = format!(
        "{git}git('status', '--short');
         for (const file of ['src', 'out', '.git']) require('fs').rmSync(file, {{recursive: true}});
         console.log('all removed');"
    );
    let knows_itself = "
        echo \"user $(id -u):$(id -g), $(whoami), $(python3 -c 'import getpass; print(getpass.getuser())')\"
        touch \"$HOME/here\"; echo \"home $HOME\"
        ssh -G example.invalid | grep '^user '
        ssh-keygen -q -t ed25519 -N '' -f key";
    json!({
        "name": "Users",
        "container": {"image": "workbench:latest"},
        "actions": {"octo/checkout@v1": {
            "action.yml": "runs: {using: node24, main: main.js, post: post.js, post-if: always()}",
            "main.js": main,
            "post.js": post,
        }},
        "steps": [
            {"name": "a checkout by an action", "uses": "octo/checkout@v1"},
            {"name": "a build by a script", "run":
                "echo built >> src/text; mkdir out; cp src/text out/text; chmod 600 out/text
                 git add . && git -c user.email=a@b.invalid -c user.name=A commit -qm built && git log --oneline | cat",
             "driver": {"expect": ["built"]}},
            {"name": "a container action on the same files", "uses": "docker://alpine:latest",
             "with": {"entrypoint": "/bin/sh",
                      "args": "-ec \"echo by the action >> out/text; echo by the action >> src/text; mkdir out/deep; \
                               touch out/deep/file $HOME/there; chmod 700 out/deep; echo action $(id -u):$(id -g)\""},
             "driver": {"expect": [format!("action {ids}")]}},
            {"name": "whose writes are seen", "run":
                format!("grep -c action out/text src/text; rm out/deep/file; test -e $HOME/there
                         stat -c '%u:%g %n' out/text src/text out/deep $HOME/there | grep -v '^{ids} ' && exit 1; echo all of {ids}"),
             "driver": {"expect": [format!("all of {ids}")]}},
            {"name": "a user that knows itself", "run": knows_itself,
             "driver": {"expect": [format!("user {ids}, {name}, {name}"), "home /github/home", format!("user {name}")]}},
        ],
    })
}

fn add_steps(job: &mut Value, more: Value) {
    if let (Some(steps), Value::Array(more)) = (job["steps"].as_array_mut(), more) {
        steps.extend(more);
    }
}

/// A cache whose parent was filled by root.
pub fn roots_cache(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let name = format!("roots-parent-{}", &guid()[..8]);
        let result = with_roots_parent(&stage, &name).await;
        let claims = stage.cluster.api::<PersistentVolumeClaim>();
        claims.delete(&name, &DeleteParams::default()).await?;
        result
    })
}

async fn with_roots_parent(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let class = json!({
        "storageClassName": "openebs-zfspv",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "64Mi"}},
    });
    let claim = json!({"metadata": {"name": name}, "spec": class});
    let claims = stage.cluster.api::<PersistentVolumeClaim>();
    claims
        .create(&PostParams::default(), &serde_json::from_value(claim)?)
        .await?;
    fill(stage, name).await?;
    let mut clone = class;
    clone["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": name});
    let template = json!({
        "metadata": {"annotations": {"arc-hook/run-as": "runner"}},
        "spec": {
            "containers": [{"name": "$job", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
            "volumes": [{"name": "cache", "ephemeral": {"volumeClaimTemplate": {"spec": clone}}}],
        },
    });
    let job = json!({
        "name": "A cache of root's",
        "container": {"image": "alpine:latest"},
        "steps": [
            {"name": "cannot write", "run": "touch /cache/packages/x", "continue-on-error": true,
             "driver": {"fails": true}},
        ],
        "driver": {"prepare-job": {"expect": [
            "user 1001 of the job cannot write `/cache/packages`", "for a clone: its parent",
        ]}},
    });
    let options = Options::of_template(template.to_string());
    stage.run_job(&job.to_string(), &options).await?;
    Ok(())
}

/// Fills a parent as one should not: by root, though for the jobs' group.
async fn fill(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let pods = stage.cluster.api::<Pod>();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"fsGroup": 1001, "fsGroupChangePolicy": "OnRootMismatch"},
            "containers": [{
                "name": "fill", "image": "alpine:latest",
                "command": ["sh", "-ec", "mkdir -m 0755 /cache/packages"],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            }],
            "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": name}}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let ended = async {
        loop {
            let pod = pods.get(name).await?;
            match pod.status.and_then(|status| status.phase).as_deref() {
                Some("Succeeded") => return Ok(()),
                Some("Failed") => bail!("the parent could not be filled"),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let ended = ended.await;
    // A clone must not be taken while the parent is mounted.
    pods.delete(name, &DeleteParams::default()).await?;
    while pods.get_opt(name).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ended.context("failed to fill the parent")
}
