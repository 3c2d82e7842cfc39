/*
 * TLS towards clients: the context of https:// listeners out of the settings, and what the log says
 * of it.
 */
#ifndef CONCLAVE_GATEWAYD_CLIENT_TLS_H
#define CONCLAVE_GATEWAYD_CLIENT_TLS_H

struct gatewayd;

/* Makes gw->tls unless it is there. 0, or negative errno, logged. */
int client_tls_open(struct gatewayd *gw);
void client_tls_close(struct gatewayd *gw);
/* A connection that failed its handshake; the log does not follow a flood of them. */
void client_tls_rejected(struct gatewayd *gw, const char *peer, const char *why);

#endif
