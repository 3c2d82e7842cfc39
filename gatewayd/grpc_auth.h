/*
 * Who asks, for gRPC. One table (grpc_auth.c) says for every method where it is decided whether its
 * caller may; a method that is not in it is refused while auth is enabled.
 *
 * gatewayd knows nobody. It shows the caller's token (metadata "token", else "authorization"; or
 * the common name of the connection's verified certificate) to stored and gets a stamp, which then
 * travels with everything this caller asks for and is verified where it is executed. Stamps are
 * kept for a short while (auth_cache.h), so a request usually costs one lookup; with auth off it
 * costs a comparison.
 */
#ifndef CONCLAVE_GATEWAYD_GRPC_AUTH_H
#define CONCLAVE_GATEWAYD_GRPC_AUTH_H

#include <stdbool.h>
#include "lib/util/bytes.h"

struct gatewayd;
struct grpc_call;
struct grpc_method;
struct http_req;

enum grpc_auth {
    GRPC_AUTH_UNKNOWN, /* no entry: nobody may while auth is enabled */
    GRPC_AUTH_OPEN,    /* anyone: no identity is looked up */
    /* stored decides about each request: call->backend.identity is set, and goes with every
     * backend_call made for it (copy it to calls of your own). A token that is refused fails the
     * call */
    GRPC_AUTH_STORED,
    /* a stream in both directions: each message is looked at anew, call->backend.identity is set
     * before on_message, and call->auth_outcome says when the token is refused: the handler reports
     * that in its own way */
    GRPC_AUTH_STREAM,
    GRPC_AUTH_USER, /* any valid user; asked before the handler runs */
    GRPC_AUTH_ROOT, /* a user with the role root; likewise */
};

/* From grpc.c: runs the handler, at once or when it is known that it may run; or fails the call. */
void grpc_auth_run(struct grpc_call *call);
/* Nothing was done, because auth changed under way: runs the call once more, then true. */
bool grpc_auth_again(struct grpc_call *call, int outcome);
/* What a stream with GRPC_AUTH_STREAM receives, in order: on_message and on_half_closed follow, at
 * once or when it is known who the caller is. */
void grpc_auth_message(struct grpc_call *call, struct bytes message);
void grpc_auth_half_close(struct grpc_call *call);
/* A certificate that would name its user to gRPC does not through the JSON gateway: etcd refuses
 * such requests while auth is enabled rather than ignore it. */
bool grpc_auth_name_is_ignored(const struct gatewayd *gw, const struct http_req *req);
void grpc_auth_end(struct grpc_call *call); /* the call dies */

enum grpc_auth grpc_auth_of(const struct grpc_method *method);

/*
 * Looks the caller's token up. done(call, OUT_OK): call->backend.identity is set (empty while auth
 * is off or when no token came); or the outcome to answer with. May call done before it returns.
 * Not while one is under way for the same call; ends silently with the call.
 */
void grpc_auth_resolve(struct grpc_call *call, void (*done)(struct grpc_call *call, int outcome));

#endif
