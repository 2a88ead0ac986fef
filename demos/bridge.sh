#!/bin/sh
# The sequence that the READMEs of the OPI bridges show (SPDK, Intel, Marvell, NVIDIA), with curl
# against this server's REST interface. Starts its own xPU and its own array, both with throw-away
# state, and ends them.
#
#   usage: demos/bridge.sh      needs curl, and `opi` in the PATH or its file in OPI
#
# Every call is printed before it is made; a call that fails ends the script.
set -eu

opi=${OPI:-opi}
xpu=${XPU_HTTP:-127.0.0.1:8082}
dir=$(mktemp -d)
pids=

end() {
  status=$?
  for pid in $pids; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
  rm -rf "$dir"
  exit $status
}
trap end EXIT
trap 'exit 130' INT TERM

# serve NAME GRPC HTTP: a server, ready when this returns.
serve() {
  "$opi" serve --legacy-names --state-dir "$dir/$1" --key-file "$dir/$1.key" \
    --grpc-addr "$2" --http-addr "$3" 2>"$dir/$1.log" &
  pids="$pids $!"
  tries=0
  until curl -fs "http://$3/readyz" >/dev/null; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ] || ! kill -0 "${pids##* }" 2>/dev/null; then
      cat "$dir/$1.log" >&2
      echo "error: the $1 does not get ready" >&2
      exit 1
    fi
    sleep 0.1
  done
}

# call SERVER METHOD PATH [BODY]: one call, shown with its answer.
call() {
  echo "$2 $3${4:+ $4}"
  curl -sS -X "$2" ${4:+-H 'Content-Type: application/json' -d "$4"} -w '\n%{http_code}' \
    "http://$1$3" >"$dir/answer"
  code=$(tail -n 1 "$dir/answer")
  sed '$d; s/^/    /' "$dir/answer"
  case $code in
  2*) ;;
  *)
    echo "error: $code" >&2
    exit 1
    ;;
  esac
}

xpu() { call "$xpu" "$@"; }

echo '== an array, as SPDK is in the READMEs: Malloc0 in cnode1, port 4444'
array=127.0.0.1:8083
serve array 127.0.0.1:50052 $array
call $array POST '/v1/mallocVolumes?malloc_volume_id=Malloc0' '{"block_size": 512, "blocks_count": 131072}'
call $array POST '/v1/nvmeSubsystems?nvme_subsystem_id=cnode1' \
  '{"spec": {"nqn": "nqn.2016-06.io.spdk:cnode1"}}'
call $array POST '/v1/nvmeSubsystems/cnode1/nvmeNamespaces?nvme_namespace_id=ns' \
  '{"spec": {"volume_name_ref": "Malloc0", "host_nsid": 1}}'
call $array POST '/v1/nvmeSubsystems/cnode1/nvmeControllers?nvme_controller_id=tcp' \
  '{"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id":
    {"traddr": "127.0.0.1", "trsvcid": "4444", "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}}}'

echo '== the xPU: a subsystem with a controller and a namespace'
serve xpu "${XPU_GRPC:-127.0.0.1:50051}" "$xpu"
xpu POST '/v1/mallocVolumes?malloc_volume_id=Malloc0' '{"block_size": 512, "blocks_count": 131072}'
xpu POST '/v1/nvmeSubsystems?nvme_subsystem_id=subsystem2' \
  '{"spec": {"nqn": "nqn.2022-09.io.spdk:opitest2", "serial_number": "myserial2",
    "model_number": "mymodel2", "max_namespaces": 11}}'
xpu GET /v1/nvmeSubsystems
xpu GET /v1/nvmeSubsystems/subsystem2
# The READMEs ask for a PCIe function here; that is for the host devices to come.
xpu POST '/v1/nvmeSubsystems/subsystem2/nvmeControllers?nvme_controller_id=controller1' \
  '{"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id":
    {"traddr": "127.0.0.1", "trsvcid": "4420", "adrfam": "NVME_ADDRESS_FAMILY_IPV4"},
    "max_nsq": 5, "max_ncq": 5}}'
xpu GET /v1/nvmeSubsystems/subsystem2/nvmeControllers
xpu GET /v1/nvmeSubsystems/subsystem2/nvmeControllers/controller1
xpu POST '/v1/nvmeSubsystems/subsystem2/nvmeNamespaces?nvme_namespace_id=namespace1' \
  '{"spec": {"volume_name_ref": "Malloc0", "host_nsid": 10}}'
xpu GET /v1/nvmeSubsystems/subsystem2/nvmeNamespaces
xpu GET /v1/nvmeSubsystems/subsystem2/nvmeNamespaces/namespace1
xpu GET /v1/nvmeSubsystems/subsystem2/nvmeNamespaces/namespace1:stats

echo '== the xPU: the array behind a remote controller'
xpu POST '/v1/nvmeRemoteControllers?nvme_remote_controller_id=nvmetcp12' \
  '{"multipath": "NVME_MULTIPATH_MULTIPATH"}'
xpu GET /v1/nvmeRemoteControllers
xpu GET /v1/nvmeRemoteControllers/nvmetcp12
xpu POST '/v1/nvmeRemoteControllers/nvmetcp12/nvmePaths?nvme_path_id=nvmetcp12path0' \
  '{"trtype": "NVME_TRANSPORT_TYPE_TCP", "traddr": "127.0.0.1", "fabrics":
    {"subnqn": "nqn.2016-06.io.spdk:cnode1", "trsvcid": 4444,
     "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
     "hostnqn": "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"}}'
xpu GET /v1/nvmeRemoteControllers/nvmetcp12/nvmePaths
xpu GET /v1/nvmeRemoteControllers/nvmetcp12/nvmePaths/nvmetcp12path0

echo "== what the bridges cannot do: the array's namespace, shown to hosts"
tries=0
until curl -fsS "http://$xpu/v1/nvmeRemoteControllers/nvmetcp12/nvmeRemoteNamespaces" |
  grep -q nvmeRemoteNamespaces/n1; do
  tries=$((tries + 1))
  [ $tries -le 100 ] || { echo 'error: the namespace does not appear' >&2; exit 1; }
  sleep 0.1
done
xpu GET /v1/nvmeRemoteControllers/nvmetcp12/nvmeRemoteNamespaces
xpu POST '/v1/nvmeSubsystems/subsystem2/nvmeNamespaces?nvme_namespace_id=remote' \
  '{"spec": {"volume_name_ref": "nvmetcp12n1", "host_nsid": 11}}'
"$opi" bench tcp://127.0.0.1:4420/nqn.2022-09.io.spdk:opitest2 --nsid 11 --rw randrw --verify \
  --range 4MiB --time 1s

echo '== everything away again, in reverse'
xpu DELETE /v1/nvmeSubsystems/subsystem2/nvmeNamespaces/remote
xpu DELETE /v1/nvmeRemoteControllers/nvmetcp12/nvmePaths/nvmetcp12path0
xpu DELETE /v1/nvmeRemoteControllers/nvmetcp12
xpu DELETE /v1/nvmeSubsystems/subsystem2/nvmeNamespaces/namespace1
xpu DELETE /v1/nvmeSubsystems/subsystem2/nvmeControllers/controller1
xpu DELETE /v1/nvmeSubsystems/subsystem2
xpu DELETE /v1/mallocVolumes/Malloc0
echo 'done: every call succeeded'
