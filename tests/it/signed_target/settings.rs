//! What `signed_target` may be, and where paths would make it ambiguous.

use super::*;

async fn complaint(file: &str, settings: &[(&str, &str)]) -> String {
    let setup = Setup::bare().set("DATABASE_URL", "postgres://localhost/x").set("CXDA_SIGNING__SECRET", SECRET).file(file);
    let outcome = settings.iter().fold(setup, |setup, (name, value)| setup.set(name, *value)).refused().await;
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    outcome.stderr
}

#[tokio::test]
async fn anything_else_is_a_bad_setting() {
    let printed = complaint(&settings_file(&[hook("/hook", "'maybe'")]), &[("CXDA_SIGNING__SIGNED_TARGET", "yes")]).await;
    for name in ["signing.signed_target (CXDA_SIGNING__SIGNED_TARGET)", "webhooks[0].auth.hmac.signed_target of /hook"] {
        assert!(printed.contains(&format!("{name}: must be off, accept or require")), "{printed}");
    }
    let key = Route::new("/hook").set("auth", "{ api_key = { signed_target = 'off' } }");
    let printed = complaint(&settings_file(&[key]), &[]).await;
    assert!(printed.contains("signed_target of /hook: there is no such setting"), "{printed}");
}

#[tokio::test]
async fn a_bound_path_that_is_another_path_and_a_dot_is_a_bad_setting() {
    for (paths, bad) in
        [(["/hook", "/hook.v2"], "webhooks[1].path of /hook.v2"), (["/hook.a.b", "/hook.a"], "webhooks[0].path of /hook.a.b")]
    {
        for signed_target in ["'require'", "'accept'"] {
            let printed = complaint(&settings_file(&paths.map(|path| hook(path, signed_target))), &[]).await;
            assert!(printed.contains(&format!("{bad}: begins with the path of another route and a dot")), "{printed}");
        }
    }
    let printed = complaint(&settings_file(&[hook("/data-action.v2", "true")]), &[]).await;
    assert!(printed.contains("webhooks[0].path of /data-action.v2: begins with"), "{printed}");
}

#[tokio::test]
async fn a_path_with_a_dot_is_fine_where_nothing_is_bound_or_nothing_ends_before_the_dot() {
    let routes = [hook("/hook", "'off'"), hook("/hook.v2", "'off'"), hook("/hoo.k", "true"), hook("/hook/x.y", "true")];
    let stage = Stage::new(&routes, &[]).await;
    stage.takes("/hook.v2", &sign(BODY)).await;
    stage.takes("/hoo.k", &bound("/hoo.k")).await;
}
