/*
 * The command line by the conventions of Go's flag package: one or two dashes, "-name value" or
 * "-name=value", a bool takes a value only with '=', "--" ends the flags, of a repeated flag the
 * last wins. Texts and exit statuses are those etcd's users know.
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

static int flag_error(struct settings_error *error, char *text)
{
    *error = (struct settings_error){.text = text, .exit_status = 2, .usage = true};
    return -EINVAL;
}

static bool is_bool_flag(const struct setting_def *d)
{
    return d->type == SETTING_BOOL || d->type == SETTING_ANY;
}

int settings_read_flags(struct setting_layer *layer, int argc, char *const *argv,
                        enum settings_action *ret_action, struct settings_error *ret_error)
{
    int i = 1;

    assert(layer != NULL);
    while (i < argc) {
        const char *arg = argv[i], *name = arg + 1, *value = NULL;
        CLEANUP(freep) char *name_only = NULL;
        CLEANUP(freep) char *why = NULL;
        const struct setting_def *d;
        const char *eq;
        int id;

        if (arg[0] != '-' || arg[1] == '\0')
            break;
        i++;
        if (*name == '-')
            name++;
        if (*name == '\0') /* "--" */
            break;
        if (*name == '-' || *name == '=')
            return flag_error(ret_error, xasprintf("bad flag syntax: %s", arg));
        eq = strchr(name, '=');
        name_only = eq != NULL ? xstrndup(name, (size_t)(eq - name)) : xstrdup(name);
        value = eq != NULL ? eq + 1 : NULL;
        id = settings_find(name_only);
        if (id < 0) {
            if (strcmp(name_only, "help") == 0 || strcmp(name_only, "h") == 0) {
                *ret_action = SETTINGS_HELP;
                return 0;
            }
            return flag_error(ret_error,
                              xasprintf("flag provided but not defined: -%s", name_only));
        }
        d = &setting_defs[id];
        if (is_bool_flag(d)) {
            if (value == NULL)
                value = "true";
        } else if (value == NULL) {
            if (i >= argc)
                return flag_error(ret_error, xasprintf("flag needs an argument: -%s", name_only));
            value = argv[i++];
        }
        if (setting_put(layer, (size_t)id, value, SOURCE_FLAG, &why) < 0) {
            if (d->secret)
                value = "***";
            return flag_error(ret_error,
                              d->type == SETTING_BOOL
                                  ? xasprintf("invalid boolean value \"%s\" for -%s: %s", value,
                                              name_only, why)
                                  : xasprintf("invalid value \"%s\" for flag -%s: %s", value,
                                              name_only, why));
        }
    }
    if (i < argc) {
        if (i == 1 && (strcmp(argv[1], "gateway") == 0 || strcmp(argv[1], "grpc-proxy") == 0))
            return settings_error_set(ret_error, 1, "\"%s\" is not available in this version",
                                      argv[1]);
        return settings_error_set(ret_error, 1, "\"%s\" is not a valid flag", argv[i]);
    }
    {
        const struct setting_value *v = &layer->values[settings_find("version")];

        *ret_action = v->text != NULL && strcmp(v->text, "true") == 0 ? SETTINGS_VERSION
                                                                     : SETTINGS_START;
    }
    return 0;
}
