/*
 * TLS between members, as a relay in front of nng, which sees plain local sockets: nng listens on a
 * private socket and what passed a TLS handshake on the peer URL is connected to it; nng dials
 * another private socket and each of its connections is carried to the member's https:// URL.
 *
 * The relay has a thread and a loop of its own: a handshake costs up to a millisecond, and a
 * stranger's must not delay a heartbeat. It moves bytes in both directions with back pressure, at
 * most a buffer of each, and holds a stranger without a certificate away from nng altogether.
 *
 * Functions here are for one thread (raftd's loop), which is not the relay's.
 */
#ifndef CONCLAVE_RAFTD_PEER_TLS_H
#define CONCLAVE_RAFTD_PEER_TLS_H

#include <stdbool.h>
#include <stdint.h>

struct peer_tls;

/* Settings (raftd_conf.c); strings are never NULL. */
struct peer_tls_conf {
    char *cert_file, *key_file;
    char *client_cert_file, *client_key_file; /* for dialling; "": the ones above */
    char *ca_file, *crl_file;
    bool require_cert;
    bool auto_tls; /* and no certificate was given: none is verified */
    bool skip_san;
    char *allowed_cn, *allowed_hostname;
    char *cipher_suites, *min_version, *max_version;
};

bool peer_tls_is_secure(const char *url); /* https:// */

/* run_dir: where the private sockets are made. 0, or negative errno with *ret_error (free()). */
int peer_tls_start(const struct peer_tls_conf *conf, const char *run_dir, struct peer_tls **ret,
                   char **ret_error);
void peer_tls_stop(struct peer_tls *t); /* every connection ends; NULL is fine */

/* Where nng is to listen for what arrives at `url` ("ipc://..."; free()). NULL with *ret_error. */
char *peer_tls_listen(struct peer_tls *t, const char *url, char **ret_error);
/* Starts accepting; nng listens by now. */
void peer_tls_accept(struct peer_tls *t);
/* Where nng is to dial to reach `url` (free()). The same for the same URL. NULL: no socket. */
char *peer_tls_dial(struct peer_tls *t, const char *url);

struct peer_tls_stats {
    uint64_t handshakes, connections;
    uint64_t failures; /* connections, in or out, that came to nothing */
};
void peer_tls_get_stats(struct peer_tls *t, struct peer_tls_stats *ret); /* any thread */

#endif
