// As a plug-in (-DPLUGIN): makes a set. As a program: loads the plug-in named on the command line with RTLD_DEEPBIND, as PHP does, and looks whose the set is.
#include "check.h"
#ifdef PLUGIN
int make(void) { return semget(IPC_PRIVATE, 1, 0600); }
#else
#include <dlfcn.h>
int main(int count, char **words) {
    CHECK(count == 2);
    void *plugin = dlopen(words[1], RTLD_NOW | RTLD_DEEPBIND);
    if (!plugin) fprintf(stderr, "%s\n", dlerror());
    CHECK(plugin);
    int (*make)(void) = (int (*)(void))dlsym(plugin, "make");
    CHECK(make);
    int id = make();
    CHECK(id >= 0 && id & 1 << 30);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    CHECK(dlopen("/nowhere.so", RTLD_NOW) == NULL && strstr(dlerror(), "nowhere"));
    return 0;
}
#endif
