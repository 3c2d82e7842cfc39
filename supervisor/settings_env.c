/*
 * Variables ETCD_* and CONCLAVE_*: the prefix, then the setting's name in capitals with '_' for '-'.
 * An empty one is as good as none. A name that nobody knows only gives a warning, because service
 * links of container platforms produce names such as ETCD_PORT.
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

static const char etcd_prefix[] = "ETCD_";
static const char own_prefix[] = "CONCLAVE_";

/* Variables with our prefixes that are not settings: where the daemons are, and what etcd demands on
 * processors it does not know. */
static const char *const other_variables[] = {"CONCLAVE_LIBEXECDIR", "ETCD_UNSUPPORTED_ARCH"};

static int find_variable(const char *name, size_t len, const char *prefix)
{
    for (size_t i = 0; i < setting_count; i++) {
        CLEANUP(freep) char *v = setting_variable(prefix, setting_defs[i].name);

        if (strlen(v) == len && memcmp(v, name, len) == 0)
            return (int)i;
    }
    return -1;
}

static bool is_other(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(other_variables); i++) {
        if (strlen(other_variables[i]) == len && memcmp(other_variables[i], name, len) == 0)
            return true;
    }
    return false;
}

int settings_read_env(struct setting_layer *etcd, struct setting_layer *own, struct settings *s,
                      char *const *env, struct settings_error *ret_error)
{
    for (; *env != NULL; env++) {
        bool is_etcd = strncmp(*env, etcd_prefix, strlen(etcd_prefix)) == 0;
        bool is_own = strncmp(*env, own_prefix, strlen(own_prefix)) == 0;
        const char *eq = strchr(*env, '=');
        CLEANUP(freep) char *why = NULL;
        struct setting_layer *layer = is_etcd ? etcd : own;
        size_t len;
        int id;

        if ((!is_etcd && !is_own) || eq == NULL)
            continue;
        len = (size_t)(eq - *env);
        id = find_variable(*env, len, is_etcd ? etcd_prefix : own_prefix);
        if (id >= 0 && strcmp(setting_defs[id].name, "version") == 0) {
            settings_notice(s, true, "ignored environment variable %s", *env);
            continue;
        }
        if (id < 0) {
            if (!is_other(*env, len))
                settings_notice(s, true, "unrecognized environment variable %s", *env);
            continue;
        }
        if (eq[1] == '\0') {
            /* remembered, since even an empty variable contradicts a flag in etcd */
            layer->values[id].source = is_etcd ? SOURCE_ETCD_ENV : SOURCE_CONCLAVE_ENV;
            continue;
        }
        if (setting_put(layer, (size_t)id, eq + 1, is_etcd ? SOURCE_ETCD_ENV : SOURCE_CONCLAVE_ENV,
                        &why) < 0)
            return settings_error_set(ret_error, 1, "invalid value \"%s\" for %.*s: %s",
                                      setting_defs[id].secret ? "***" : eq + 1, (int)len, *env,
                                      why);
    }
    return 0;
}
