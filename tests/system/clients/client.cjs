// The JavaScript client: objects, patches, an informer, logs, exec, server-side apply.

const path = require('node:path');
const { PassThrough } = require('node:stream');
const { pathToFileURL } = require('node:url');

const packages = path.join(process.env.NODE_PATH, '@kubernetes/client-node/dist/index.js');

function check(condition, what) {
    if (!condition) throw new Error(what);
}

async function until(what, look) {
    const end = Date.now() + 60_000;
    while (Date.now() < end) {
        const found = await look();
        if (found) return found;
        await new Promise((resume) => setTimeout(resume, 50));
    }
    throw new Error(`not so within a minute: ${what}`);
}

async function main() {
    const k8s = await import(pathToFileURL(packages));
    const config = new k8s.KubeConfig();
    config.loadFromDefault();
    const core = config.makeApiClient(k8s.CoreV1Api);
    const namespace = 'default';

    // An informer sees what is there and what comes.
    const seen = new Map();
    const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'js=1' });
    const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, 'js=1');
    for (const verb of ['add', 'update', 'delete']) {
        informer.on(verb, (object) => seen.set(object.metadata.name, [verb, object.data?.k]));
    }
    let stopped = false;
    informer.on('error', (error) => { if (!stopped) throw error; });
    await informer.start();
    const made = await core.createNamespacedConfigMap({
        namespace,
        body: { metadata: { name: 'js', labels: { js: '1' } }, data: { k: 'one' } },
    });
    check(made.metadata.uid, 'no uid');
    await until('the informer saw the create', () => String(seen.get('js')) === 'add,one');
    await core.patchNamespacedConfigMap(
        { name: 'js', namespace, body: { data: { k: 'two' } } },
        k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.StrategicMergePatch),
    );
    await until('the informer saw the patch', () => String(seen.get('js')) === 'update,two');
    await core.patchNamespacedConfigMap(
        { name: 'js', namespace, fieldManager: 'js', force: true,
          body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'js', labels: { js: '1' } }, data: { k: 'three' } } },
        k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.ServerSideApply),
    );
    await until('the informer saw the apply', () => String(seen.get('js')) === 'update,three');
    await core.deleteNamespacedConfigMap({ name: 'js', namespace });
    await until('the informer saw the delete', () => seen.get('js')?.[0] === 'delete');
    stopped = true;
    await informer.stop();
    try {
        await core.readNamespacedConfigMap({ name: 'js', namespace });
        throw new Error('still there');
    } catch (error) {
        check(error.code === 404, String(error));
    }

    // A pod: log and exec.
    await core.createNamespacedPod({
        namespace,
        body: {
            metadata: { name: 'js' },
            spec: {
                terminationGracePeriodSeconds: 0,
                containers: [{ name: 'main', image: 'busybox:1', command: ['sh', '-c', 'echo hello; sleep 1000'] }],
            },
        },
    });
    await until('the pod runs', async () => {
        const pod = await core.readNamespacedPodStatus({ name: 'js', namespace });
        return pod.status.phase === 'Running';
    });
    await until('the log', async () => (await core.readNamespacedPodLog({ name: 'js', namespace })) === 'hello\n');
    let told = '';
    const out = new PassThrough();
    out.on('data', (data) => { told += data; });
    const status = await new Promise((resolve, reject) => {
        new k8s.Exec(config)
            .exec(namespace, 'js', 'main', ['sh', '-c', 'echo out; exit 4'], out, null, null, false, resolve)
            .catch(reject);
    });
    check(status.status === 'Failure' && status.details.causes[0].message === '4', JSON.stringify(status));
    await until('what the command said', () => told === 'out\n');
    await core.deleteNamespacedPod({ name: 'js', namespace });
    console.log('all went well');
}

main().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
