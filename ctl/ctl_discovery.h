/*
 * Endpoints from DNS: SRV records _etcd-client-ssl._tcp and _etcd-client._tcp of a domain.
 */
#ifndef CONCLAVE_CTL_CTL_DISCOVERY_H
#define CONCLAVE_CTL_CTL_DISCOVERY_H

#include <stdbool.h>

/* "https://a:2379,http://b:2379", secure ones first; free(). service "": none. Without `insecure`
 * the http ones are left out, with a line on stderr each. NULL: none found. Blocks. */
char *ctl_discover_endpoints(const char *domain, const char *service, bool insecure);

#endif
