//! The HTTP limit: a route that reads a body and answers a fixed one, in a process of its own as the service is.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse, HttpServer};

/// Serves until it is killed, after a line on standard output that says where.
pub(crate) async fn serve(body: &Path) {
    let body = Bytes::from(fs::read(body).expect("a body"));
    let app = move || {
        let body = body.clone();
        let answer = move |_whole: Bytes| {
            let body = body.clone();
            async move { HttpResponse::Ok().content_type("application/json").body(body) }
        };
        App::new().route("/data-action", web::post().to(answer))
    };
    // As many workers as the service has.
    let workers = available_parallelism().map_or(2, usize::from);
    let server = HttpServer::new(app).workers(workers).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
    println!("http://{}", server.addrs()[0]);
    server.run().await.expect("it serves");
}
