/*
 * --help, --version and the reference page, all from the table of settings.
 */
#include "supervisor/settings.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include "config.h"
#include "lib/util/xmalloc.h"

void settings_print_usage(FILE *out)
{
    fputs("Usage:\n"
          "\n"
          "  conclave [flags]\n"
          "    Run a member.\n"
          "\n"
          "  conclave --config-file <path>\n"
          "    Run a member with the settings of a YAML file; flags beside it win.\n"
          "\n"
          "  conclave --version\n"
          "    Print the version.\n"
          "\n"
          "  conclave -h | --help\n"
          "    Print every flag.\n"
          "\n",
          out);
}


static const char *shown_default(const struct setting_def *d)
{
    return d->def != NULL ? d->def : "";
}

void settings_print_help(FILE *out)
{
    const char *group = "";

    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];

        if (strcmp(d->group, group) != 0) {
            group = d->group;
            fprintf(out, "%s%s:\n", i > 0 ? "\n" : "", group);
        }
        fprintf(out, "  --%s '%s'\n    %s%s\n", d->name, shown_default(d), d->help,
                d->effect == SETTING_LATER     ? " (accepted, not acted on by this version)"
                : d->effect == SETTING_REFUSED ? " (not available in this version)"
                                               : "");
    }
    fputs("\nEach flag is also a variable, ETCD_<NAME> or CONCLAVE_<NAME> in capitals with _ for -,\n"
          "and a key of the configuration file.\n",
          out);
}

void settings_print_version(FILE *out)
{
    struct utsname u;
    const char *arch = "unknown";

    if (uname(&u) == 0)
        arch = strcmp(u.machine, "x86_64") == 0    ? "amd64"
               : strcmp(u.machine, "aarch64") == 0 ? "arm64"
                                                   : u.machine;
    fprintf(out,
            "conclave Version: %s\n"
            "etcd API Version: %s\n"
            "C Compiler: %s\n"
            "OS/Arch: linux/%s\n",
            PACKAGE_VERSION, ETCD_API_VERSION,
#ifdef __clang__
            "clang " __clang_version__,
#else
            "gcc " __VERSION__,
#endif
            arch);
}

static const char *type_name(const struct setting_def *d)
{
    switch (d->type) {
    case SETTING_BOOL:
        return "bool";
    case SETTING_UINT:
    case SETTING_UINT32:
        return "number >= 0";
    case SETTING_INT:
        return "number";
    case SETTING_DURATION:
        return "duration";
    case SETTING_URLS:
        return "URLs";
    case SETTING_ENUM:
        return "word";
    case SETTING_LIST:
    case SETTING_ORIGINS:
        return "list";
    case SETTING_STRING:
    case SETTING_LEVELS:
    case SETTING_GATES:
    case SETTING_ANY:
        break;
    }
    return "text";
}

static const char *effect_name(const struct setting_def *d)
{
    switch (d->effect) {
    case SETTING_ACTIVE:
        return d->reloadable ? "yes, reloadable" : "yes";
    case SETTING_MEANINGLESS:
        return "none (notice)";
    case SETTING_LATER:
        return "not yet (warning)";
    case SETTING_REFUSED:
        return "refused";
    }
    return "";
}

void settings_print_reference(FILE *out)
{
    const char *group = "";

    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];

        if (strcmp(d->group, group) != 0) {
            group = d->group;
            fprintf(out, "\n### %s\n\n| setting | type | default | acts | etcd | meaning |\n"
                         "|---|---|---|---|---|---|\n",
                    group);
        }
        fprintf(out, "| `%s`", d->name);
        if (d->yaml != NULL)
            fprintf(out, " (in a file also `%s`)", d->yaml);
        fprintf(out, " | %s | `%s` | %s | %s | %s |\n", type_name(d), shown_default(d),
                effect_name(d), *d->series != '\0' ? d->series : "no", d->help);
    }
}
