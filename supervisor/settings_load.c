/*
 * From the sources to one set of values: flags, then variables, then the file if one was named, then
 * who wins. Contradictions end here; what merely does not count is told in notices.
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

struct layers {
    struct setting_layer flags, own_env, file, etcd_env;
};

static void layers_fini(struct layers *l)
{
    setting_layer_fini(&l->flags);
    setting_layer_fini(&l->own_env);
    setting_layer_fini(&l->file);
    setting_layer_fini(&l->etcd_env);
}

static bool is_given(const struct setting_layer *layer, size_t id)
{
    return layer->values[id].text != NULL;
}

/* What the user typed, for messages: "--name", "ETCD_NAME", "name". */
static char *spelling(const struct setting_value *v, const char *name)
{
    switch (v->source) {
    case SOURCE_FLAG:
        return xasprintf("--%s", name);
    case SOURCE_ETCD_ENV:
        return setting_variable("ETCD_", name);
    case SOURCE_CONCLAVE_ENV:
        return setting_variable("CONCLAVE_", name);
    case SOURCE_FILE:
    case SOURCE_DEFAULT:
        break;
    }
    return xstrdup(name);
}

/* Moves values given under an old name to the present one. */
static int resolve_aliases(struct setting_layer *layer, struct settings *s,
                           struct settings_error *ret_error)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];
        struct setting_value *old = &layer->values[i];
        CLEANUP(freep) char *old_name = NULL;
        CLEANUP(freep) char *new_name = NULL;
        size_t target;

        if (d->alias_of == NULL || (old->text == NULL && old->source == SOURCE_DEFAULT))
            continue;
        target = (size_t)settings_find(d->alias_of);
        if (old->text == NULL && layer->values[target].source != SOURCE_DEFAULT)
            continue;
        old_name = spelling(old, d->name);
        new_name = spelling(old, d->alias_of);
        if (old->text != NULL && is_given(layer, target))
            return settings_error_set(ret_error, 1, "both %s and %s %s are set. Use only %s",
                                      old_name, new_name,
                                      old->source == SOURCE_FLAG ? "flags" : "settings", new_name);
        if (old->text != NULL)
            settings_notice(s, true, "%s is deprecated; use %s", old_name, new_name);
        layer->values[target] = *old;
        *old = (struct setting_value){0};
    }
    return 0;
}

static int check_conflict(const struct setting_layer *env, const struct setting_layer *flags,
                          const char *prefix, struct settings_error *ret_error)
{
    for (size_t i = 0; i < setting_count; i++) {
        CLEANUP(freep) char *variable = NULL;

        if (env->values[i].source == SOURCE_DEFAULT || !is_given(flags, i))
            continue;
        variable = setting_variable(prefix, setting_defs[i].name);
        return settings_error_set(ret_error, 1,
                                  "conflicting environment variable \"%s\" is shadowed by "
                                  "corresponding command-line flag (either unset environment "
                                  "variable or disable flag)",
                                  variable);
    }
    return 0;
}

static int check_two_variables(const struct layers *l, struct settings_error *ret_error)
{
    for (size_t i = 0; i < setting_count; i++) {
        CLEANUP(freep) char *etcd = NULL;
        CLEANUP(freep) char *own = NULL;

        if (!is_given(&l->etcd_env, i) || !is_given(&l->own_env, i) ||
            strcmp(l->etcd_env.values[i].text, l->own_env.values[i].text) == 0)
            continue;
        etcd = setting_variable("ETCD_", setting_defs[i].name);
        own = setting_variable("CONCLAVE_", setting_defs[i].name);
        return settings_error_set(ret_error, 1,
                                  "conflicting environment variables \"%s\" and \"%s\" have "
                                  "different values",
                                  etcd, own);
    }
    return 0;
}

static void take(struct setting_value *to, struct setting_value *from)
{
    free(to->text);
    *to = *from;
    *from = (struct setting_value){0};
}

static void notice_used_variables(struct settings *s)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_value *v = &s->values[i];
        CLEANUP(freep) char *variable = NULL;

        if (v->source != SOURCE_ETCD_ENV && v->source != SOURCE_CONCLAVE_ENV)
            continue;
        variable = spelling(v, setting_defs[i].name);
        settings_notice(s, false, "recognized and used environment variable %s=%s", variable,
                        setting_defs[i].secret ? "***" : v->text);
    }
}

static void notice_ignored_variables(struct settings *s, const struct setting_layer *env)
{
    struct buf names = BUF_INIT;

    for (size_t i = 0; i < setting_count; i++) {
        CLEANUP(freep) char *variable = NULL;

        if (!is_given(env, i) || strcmp(setting_defs[i].name, "config-file") == 0)
            continue;
        variable = setting_variable("ETCD_", setting_defs[i].name);
        buf_appendf(&names, "%s%s", names.len > 0 ? ", " : "", variable);
    }
    if (names.len > 0)
        settings_notice(s, true, "ignored beside a configuration file, as in etcd: %.*s",
                        (int)names.len, (const char *)names.data);
    buf_fini(&names);
}

static void merge(struct settings *s, struct layers *l)
{
    struct setting_layer *order[] = {
        s->file == NULL ? &l->etcd_env : &l->file,
        &l->own_env,
        &l->flags,
    };

    for (size_t i = 0; i < setting_count; i++) {
        struct setting_value *to = &s->values[i];

        for (size_t k = 0; k < ARRAY_LEN(order); k++) {
            struct setting_value *from = &order[k]->values[i];

            if (from->text == NULL)
                continue;
            if (to->source == SOURCE_FILE && strcmp(to->text, from->text) != 0) {
                CLEANUP(freep) char *name = spelling(from, setting_defs[i].name);

                settings_notice(s, true, "%s=%s overrides %s in %s:%u", name,
                                setting_defs[i].secret ? "***" : from->text, setting_defs[i].name,
                                s->file, to->line);
            }
            take(to, from);
        }
    }
}

static const char *file_to_read(const struct layers *l)
{
    size_t id = (size_t)settings_find("config-file");
    const struct setting_layer *order[] = {&l->flags, &l->own_env, &l->etcd_env};

    for (size_t k = 0; k < ARRAY_LEN(order); k++) {
        if (is_given(order[k], id) && order[k]->values[id].text[0] != '\0')
            return order[k]->values[id].text;
    }
    return NULL;
}

int settings_load(struct settings *s, int argc, char *const *argv, char *const *env,
                  enum settings_action *ret_action, struct settings_error *ret_error)
{
    CLEANUP(layers_fini) struct layers l = {0};
    const char *path;
    int r;

    setting_layer_init(&l.flags);
    setting_layer_init(&l.own_env);
    setting_layer_init(&l.file);
    setting_layer_init(&l.etcd_env);
    *s = (struct settings){.values = xcalloc(setting_count, sizeof(*s->values))};

    r = settings_read_flags(&l.flags, argc, argv, ret_action, ret_error);
    if (r < 0 || *ret_action != SETTINGS_START)
        return r;
    r = settings_read_env(&l.etcd_env, &l.own_env, s, env, ret_error);
    if (r < 0)
        return r;
    path = file_to_read(&l);
    if (path != NULL) {
        s->file = xstrdup(path);
        settings_notice(s, false, "Loading server configuration from \"%s\"", path);
        r = settings_read_file(&l.file, path, ret_error);
        if (r < 0)
            return r;
    }
    if ((r = resolve_aliases(&l.flags, s, ret_error)) < 0 ||
        (r = resolve_aliases(&l.own_env, s, ret_error)) < 0 ||
        (r = resolve_aliases(&l.file, s, ret_error)) < 0 ||
        (r = resolve_aliases(&l.etcd_env, s, ret_error)) < 0)
        return r;
    r = check_conflict(&l.own_env, &l.flags, "CONCLAVE_", ret_error);
    if (r < 0)
        return r;
    if (path == NULL) {
        if ((r = check_conflict(&l.etcd_env, &l.flags, "ETCD_", ret_error)) < 0 ||
            (r = check_two_variables(&l, ret_error)) < 0)
            return r;
    } else {
        notice_ignored_variables(s, &l.etcd_env);
    }
    merge(s, &l);
    notice_used_variables(s);
    return settings_check(s, ret_error);
}
