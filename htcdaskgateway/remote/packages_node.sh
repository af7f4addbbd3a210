# Give the job the packages of the notebook: from the node's cache, or unpacked from what came with the job.
# Read by worker.sh, whose variables stay as they are; sets packages_python. POSIX sh, tar and gzip; the node needs no
# Python. Lock files stay: one that were removed might be held by somebody who waits.
. ./packages.conf

packages_begun=$(date +%s)
packages_say() { echo "packages: $1" >&2; }
packages_cannot() { packages_say "$1"; exit "$EXIT_NODE"; }

# What runs on this node at all.
[ "$(uname -m)" = "$MACHINE" ] || packages_cannot "this node is $(uname -m), and the packages are for $MACHINE"
packages_libc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc 2\.\([0-9]*\).*/\1/p')
[ -n "$packages_libc" ] || packages_libc=$(ldd --version 2>/dev/null | sed -n '1s/.* 2\.\([0-9]*\).*/\1/p')
[ -n "$packages_libc" ] || packages_cannot "this node has no GNU libc, and the packages need glibc 2.$GLIBC"
[ "$packages_libc" -ge "$GLIBC" ] || packages_cannot "this node has glibc 2.$packages_libc, and the packages need glibc 2.$GLIBC: \
use uv's own Python (uv venv --managed-python), which runs on older systems, or a container_image"

# A cache is this user's alone. An account that several users' jobs share has none: what another's job left is not
# believed. Root is nobody else's in a container or a namespace, and runs no job elsewhere.
packages_root=$PWD/packages packages_cached= packages_new=
packages_owner=$(sed -n 's/^Owner = "\(.*\)"$/\1/p' "$ad")
if [ "$(id -u)" = 0 ] || [ "$packages_owner" = "$(id -un 2>/dev/null)" ]; then
    packages_rest=$DIRECTORIES:
    while [ -n "$packages_rest" ] && command -v flock >/dev/null; do
        packages_directory=${packages_rest%%:*} packages_rest=${packages_rest#*:}
        [ -n "$packages_directory" ] && [ -d "$packages_directory" ] && [ -w "$packages_directory" ] || continue
        packages_directory=$packages_directory/htcdask-$(id -u)
        mkdir -m 700 "$packages_directory" 2>/dev/null
        if [ -h "$packages_directory" ] || [ "$(ls -ldn "$packages_directory" | sed 's/  */ /g' | cut -d' ' -f1,3)" != "drwx------ $(id -u)" ]; then
            packages_say "$packages_directory is not used: it does not belong to this user alone"
            continue
        fi
        packages_root=$packages_directory packages_cached=yes
        break
    done
fi
packages_tree=$packages_root/$KEY

# $1: an archive, $2: its checksum.
packages_check() {
    [ -r "$1" ] || return 1
    command -v sha256sum >/dev/null || return 0
    [ "$(sha256sum < "$1")" = "$2  -" ] && return 0
    rm -rf "$packages_new"
    packages_say "$1 is not what was sent: its checksum differs"
    exit "$EXIT_UNPACK"
}

packages_lost() {
    rm -rf "$packages_new"
    packages_say "they cannot be unpacked in $packages_root: $(df -k "$packages_root" | sed -n '$s/  */ /gp' | cut -d' ' -f4) KiB are free there"
    exit "$EXIT_UNPACK"
}

mkdir -p "$packages_root" || packages_lost

# $1: a tree, $2: where it will be. Paths that are known here only.
packages_settle() {
    mkdir -p "$1/bin" "$1/missing" && rm -f "$1/missing/"* || return 1
    [ -z "$CONDA" ] || return 0  # it has its own place for everything
    ln -sf "../base/bin/python$VERSION" "$1/bin/python" && ln -sf python "$1/bin/python3" || return 1
    printf 'home = %s/base/bin\ninclude-system-site-packages = false\n' "$2" > "$1/pyvenv.cfg" || return 1
    for packages_library in "$1"/base/lib/libpython*; do
        [ ! -e "$packages_library" ] || ln -sf "../base/lib/${packages_library##*/}" "$1/missing/" || return 1
    done
    # Of the notebook's system libraries only those are taken that the node lacks.
    for packages_library in "$1"/libraries/*; do
        packages_name=${packages_library##*/} packages_found=
        for packages_place in /lib64 /usr/lib64 "/lib/$MACHINE-linux-gnu" "/usr/lib/$MACHINE-linux-gnu" /lib /usr/lib; do
            [ -e "$packages_place/$packages_name" ] && packages_found=yes && break
        done
        [ -n "$packages_found" ] || [ ! -e "$packages_library" ] || ln -sf "../libraries/$packages_name" "$1/missing/$packages_name" || return 1
    done
}

packages_run() {
    packages_env=$1
    shift
    LD_LIBRARY_PATH="$packages_env/missing${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$packages_env/bin/python" "$@"
}

# $1: an archive, $2: a directory, $3: a pipe that is made. It is no pipe of the shell's, which would tell of tar alone.
packages_unpack() {
    mkfifo "$3" || return 1
    case $1 in
        *.gz) gzip -dc "$1" > "$3" & ;;
        *) if command -v zstd >/dev/null; then zstd -dcq "$1" > "$3" &
           else packages_run "$2/env" -c 'import sys, zstandard
zstandard.ZstdDecompressor().copy_stream(sys.stdin.buffer, sys.stdout.buffer, read_size=1 << 20, write_size=1 << 20)' \
                < "$1" > "$3" &
           fi ;;
    esac
    tar xf - -C "$2" < "$3" && wait "$!" && rm -f "$3"
}

# $1: a directory that gets env/. Most of the time goes into making files, of which two programs make more than one.
packages_unpack_base() {
    packages_check boot.tar.gz "$BOOT_SUM" && packages_check "$BASE_NAME" "$BASE_SUM" &&
        packages_check "$MORE_NAME" "$MORE_SUM" || return 1
    gzip -dc boot.tar.gz | tar xf - -C "$1" || packages_lost
    packages_settle "$1/env" "$1/env" || packages_lost
    mkdir -p "$1/env/lib/python$VERSION/site-packages" || packages_lost
    packages_unpack "$MORE_NAME" "$1" "$1/pipe-more" &
    packages_more=$!
    packages_unpack "$BASE_NAME" "$1" "$1/pipe" && packages_there=yes || packages_there=
    wait "$packages_more" && [ -n "$packages_there" ] || packages_lost
}

# Write the path of a tree, $1, into conda's files, as conda-pack does; one that runs at this moment stays as it is.
# $2: the tree that has some of the files in common, which hold its path, and which it keeps as they are.
packages_relocate() {
    packages_run "$packages_new/env" -I -B -c '
import json, os, shutil, sys
new, tree, base = sys.argv[1:]
sys.path.insert(0, new)
from prefixes import update_prefix
for name, placeholder, mode in json.load(open(new + "/prefixes.json")):
    path, common = new + "/env/" + name, base and base + "/" + name
    if common and os.path.exists(common) and os.path.samefile(path, common):
        shutil.copy2(path, path + ".new")
        os.replace(path + ".new", path)
        placeholder = base
    try:
        update_prefix(path, tree, placeholder, mode)
    except ValueError as error:
        sys.exit("packages: " + tree + " does not fit into " + name + ", which conda made for shorter paths: " + str(error))
' "$packages_new" "$1" "$2"
}

# Make the tree; return 1 where its base is neither here nor has it come with the job.
packages_make() {
    packages_new=$packages_root/.new-$$
    rm -rf "$packages_new"
    mkdir "$packages_new" || packages_lost
    packages_how="made of what is here and the changes" packages_common=
    if [ -z "$DELTA_SUM" ] || [ ! -d "$packages_root/$BASE" ]; then
        packages_unpack_base "$packages_new" || { rm -rf "$packages_new"; return 1; }
        packages_how=unpacked
        if [ -n "$DELTA_SUM" ] && [ -n "$packages_cached" ]; then
            packages_settle "$packages_new/env" "$packages_root/$BASE" || packages_lost
            [ -z "$CONDA" ] || packages_relocate "$packages_root/$BASE" "" || packages_lost
            mv "$packages_new/env" "$packages_root/$BASE" || packages_lost
        fi
    fi
    if [ ! -d "$packages_new/env" ]; then
        # Both have the files in common that did not change.
        cp -al "$packages_root/$BASE" "$packages_new/env" || packages_lost
        touch "$packages_root/$BASE.lock"
        packages_common=$packages_root/$BASE
    fi
    if [ -n "$DELTA_SUM" ]; then
        packages_check delta.tar.gz "$DELTA_SUM" || packages_lost
        # The base's own files stay: tar unlinks each that it replaces.
        gzip -dc delta.tar.gz | tar xf - -C "$packages_new" || packages_lost
        # An empty directory could be imported as a namespace package.
        (
            cd "$packages_new/env" || exit 1
            while IFS= read -r packages_file; do
                packages_directory=${packages_file%/*} packages_module=${packages_file##*/}
                rm -f "$packages_file" "$packages_directory/__pycache__/${packages_module%.py}".*.pyc
                rmdir "$packages_directory/__pycache__" 2>/dev/null
                rmdir -p "$packages_directory" 2>/dev/null
            done < ../removed
            exit 0
        ) || packages_lost
    fi
    rm -f "$packages_new/env/pyvenv.cfg"
    packages_settle "$packages_new/env" "$packages_tree" || packages_lost
    [ -z "$CONDA" ] || packages_relocate "$packages_tree" "$packages_common" || packages_lost
    mv "$packages_new/env" "$packages_tree" || packages_lost
    rm -rf "$packages_new"
}

# Remove what was used least recently and nobody uses now, until the rest fits.
packages_shrink() {
    ls -tr "$packages_root" | sed -n 's/\.lock$//p' | while IFS= read -r packages_old; do
        [ "$(du -sk "$packages_root" | cut -f1)" -gt "$SIZE_KIB" ] || break
        [ "$packages_old" != "$KEY" ] && [ -d "$packages_root/$packages_old" ] || continue
        if flock -n "$packages_root/$packages_old.lock" mv "$packages_root/$packages_old" "$packages_root/.old-$$"; then
            packages_say "$packages_old is removed from $packages_root, which may hold $SIZE_KIB KiB (node-size)"
            rm -rf "$packages_root/.old-$$"
        fi
    done
}

packages_how=cached
if [ -n "$packages_cached" ]; then
    # One unpacks while the others wait. A shared lock lasts as long as the worker, so that nobody removes its tree.
    exec 8>>"$packages_root/$KEY.lock" 9>>"$packages_root/lock"
    flock -s -w 600 8 || packages_cannot "$packages_root/$KEY.lock is held for too long"
    if [ ! -d "$packages_tree" ]; then
        flock -w 600 9 || packages_cannot "$packages_root/lock is held for too long"
        # What was killed while it unpacked; whoever has the lock is the only one.
        rm -rf "$packages_root"/.new-* "$packages_root"/.old-*
        packages_here=yes
        [ -d "$packages_tree" ] || packages_make || packages_here=
        [ -z "$packages_here" ] || packages_shrink
    fi
    exec 9>&-
    touch "$packages_root/$KEY.lock"
    export HTCDASK_PACKAGES_MACHINE="$(sed -n 's/^Machine = "\(.*\)"$/\1/p' "${_CONDOR_MACHINE_AD:-.machine.ad}")"
else
    rm -rf "$packages_root"/.new-*
    [ -d "$packages_tree" ] || packages_make
fi
if [ ! -d "$packages_tree" ]; then
    packages_say "they are not on this node and did not come with the job; the job starts again and brings them"
    exit "$EXIT_RESEND"
fi
rm -f boot.tar.gz "$BASE_NAME" "$MORE_NAME" delta.tar.gz
gzip -dc local.tar.gz | tar xf - || { packages_new=local-$LOCAL; packages_lost; }
packages_code=$(gzip -dc local.tar.gz | tar tf - | sed -n '1s,/.*,,p')
mkdir -p "${packages_code:-local-$LOCAL}" && ln -sfn "${packages_code:-local-$LOCAL}" local || packages_lost
rm -f local.tar.gz

export PYTHONPATH="$PWD/local" PYTHONNOUSERSITE=1 HTCDASK_PACKAGES_KEY="$KEY"
unset PYTHONHOME
[ -z "$CONDA" ] || export CONDA_PREFIX="$packages_tree" PATH="$packages_tree/bin:$PATH"
[ -z "$(ls "$packages_tree/missing")" ] || export LD_LIBRARY_PATH="$packages_tree/missing${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
[ -r "$CERTIFICATES" ] || [ ! -r "$packages_tree/certificates.pem" ] || [ -n "$SSL_CERT_FILE" ] || export SSL_CERT_FILE="$packages_tree/certificates.pem"
packages_python=$packages_tree/bin/python
packages_say "$packages_how in $packages_root, after $(($(date +%s) - packages_begun)) s"
