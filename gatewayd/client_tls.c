#include "gatewayd/client_tls.h"

#include <inttypes.h>
#include <stdlib.h>
#include "gatewayd/gatewayd.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/tls/tls.h"
#include "lib/util/xmalloc.h"

enum { REJECTED_LOG_MS = 1000 }; /* one line in this time, the others are counted */

static void on_reload(void *user, const char *error)
{
    if (error != NULL)
        log_error("client TLS files changed but cannot be used, the old ones stay: %s", error);
    else
        log_info("client TLS files changed and were loaded");
}

int client_tls_open(struct gatewayd *gw)
{
    const struct gatewayd_conf *c = gw->conf;
    const struct tls_args args = {
        .role = TLS_SERVER,
        .cert_file = c->cert_file,
        .key_file = c->key_file,
        .ca_file = c->trusted_ca_file,
        .require_cert = c->client_cert_auth,
        .crl_file = c->client_crl_file,
        .allowed_cn = c->client_cert_allowed_cn,
        .allowed_hostname = c->client_cert_allowed_hostname,
        .cipher_suites = c->cipher_suites,
        .min_version = c->tls_min_version,
        .max_version = c->tls_max_version,
        .http = true,
        .on_reload = on_reload,
    };
    CLEANUP(freep) char *error = NULL;
    int r;

    if (gw->tls != NULL)
        return 0;
    r = tls_context_new(&args, &gw->tls, &error);
    if (r < 0)
        log_error("TLS for clients: %s", error);
    return r;
}

void client_tls_close(struct gatewayd *gw)
{
    tls_context_free(gw->tls);
    gw->tls = NULL;
}

void client_tls_rejected(struct gatewayd *gw, const char *peer, const char *why)
{
    uint64_t now_ms = loop_now_ms(gw->loop);

    if (now_ms < gw->rejected_log_ms) {
        gw->rejected_unlogged++;
        return;
    }
    gw->rejected_log_ms = now_ms + REJECTED_LOG_MS;
    if (gw->rejected_unlogged > 0)
        log_warn("rejected connection from %s: %s (and %" PRIu64 " others since the last such line)",
                 peer, why, gw->rejected_unlogged);
    else
        log_warn("rejected connection from %s: %s", peer, why);
    gw->rejected_unlogged = 0;
}
